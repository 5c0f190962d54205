"""Vertices of a sparse permutohedral lattice of 5 dimensions: a hash table from pixels, and chains of neighbours.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010). Vertices
have the packed keys of `permutohedral_keys`.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.numba_compiler import compile_cached

_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_ROUND_HALF_EVEN = np.float32(12582912.0)  # adding and subtracting 1.5 * 2^23 rounds a float32 to an integer
_SIXTH = np.float32(1 / 6)
_SIX = np.float32(6)


@compile_cached
def find_vertex(key, keys, table, shift):
    """Return the slot of `key` in a hash table of vertex numbers: its own, or the empty one where it belongs."""
    mask = np.uint64(table.size - 1)
    slot = (key * _HASH_FACTOR) >> shift
    while table[slot] >= 0 and keys[np.uint64(table[slot])] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compile_cached
def grow_table(keys, count, table):
    """Return a table of twice the size with the first `count` keys, and the shift that gives its slots."""
    larger = np.full(table.size * 2, -1, np.int32)
    bits = 0
    while (1 << bits) < larger.size:
        bits += 1
    shift = np.uint64(64 - bits)
    for vertex in range(count):
        larger[find_vertex(keys[vertex], keys, larger, shift)] = vertex
    return larger, shift


@compile_cached
def elevate_pixel(column, row, red, green, blue, shifts, residuals, steps):
    """Return (key of the vertex with r = 0, order of the coordinates) of the simplex around a pixel.

    Takes the 5 scaled features. Fills `residuals` (6,) float32 and `steps` (6,) uint64 with the distance from the
    vertex, divided by 6, and the packed unit, of the coordinate of each rank; the order is the ranks as octal digits.
    """
    total = np.float32(0)
    e5 = total - np.float32(5) * blue
    total += blue
    e4 = total - np.float32(4) * green
    total += green
    e3 = total - np.float32(3) * red
    total += red
    e2 = total - np.float32(2) * row
    total += row
    e1 = total - column
    e0 = total + column
    q0 = (e0 * _SIXTH + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
    q1 = (e1 * _SIXTH + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
    q2 = (e2 * _SIXTH + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
    q3 = (e3 * _SIXTH + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
    q4 = (e4 * _SIXTH + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
    q5 = (e5 * _SIXTH + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
    d0, d1, d2 = e0 - q0 * _SIX, e1 - q1 * _SIX, e2 - q2 * _SIX
    d3, d4, d5 = e3 - q3 * _SIX, e4 - q4 * _SIX, e5 - q5 * _SIX
    b01, b02, b03, b04, b05 = int(d0 < d1), int(d0 < d2), int(d0 < d3), int(d0 < d4), int(d0 < d5)
    b12, b13, b14, b15 = int(d1 < d2), int(d1 < d3), int(d1 < d4), int(d1 < d5)
    b23, b24, b25 = int(d2 < d3), int(d2 < d4), int(d2 < d5)
    b34, b35, b45 = int(d3 < d4), int(d3 < d5), int(d4 < d5)
    total_steps = int(q0 + q1 + q2 + q3 + q4 + q5)
    r0 = total_steps + b01 + b02 + b03 + b04 + b05
    r1 = total_steps + 1 - b01 + b12 + b13 + b14 + b15
    r2 = total_steps + 2 - b02 - b12 + b23 + b24 + b25
    r3 = total_steps + 3 - b03 - b13 - b23 + b34 + b35
    r4 = total_steps + 4 - b04 - b14 - b24 - b34 + b45
    r5 = total_steps + 5 - b05 - b15 - b25 - b35 - b45
    w0, w1, w2 = int(r0 < 0) - int(r0 > 5), int(r1 < 0) - int(r1 > 5), int(r2 < 0) - int(r2 > 5)
    w3, w4, w5 = int(r3 < 0) - int(r3 > 5), int(r4 < 0) - int(r4 > 5), int(r5 < 0) - int(r5 > 5)
    r0, r1, r2, r3, r4, r5 = r0 + 6 * w0, r1 + 6 * w1, r2 + 6 * w2, r3 + 6 * w3, r4 + 6 * w4, r5 + 6 * w5
    k0, k1, k2, k3, k4 = int(q0) + w0, int(q1) + w1, int(q2) + w2, int(q3) + w3, int(q4) + w4
    residuals[r0] = (e0 - np.float32(k0 * 6)) * _SIXTH
    residuals[r1] = (e1 - np.float32(k1 * 6)) * _SIXTH
    residuals[r2] = (e2 - np.float32(k2 * 6)) * _SIXTH
    residuals[r3] = (e3 - np.float32(k3 * 6)) * _SIXTH
    residuals[r4] = (e4 - np.float32(k4 * 6)) * _SIXTH
    residuals[r5] = (e5 - np.float32((int(q5) + w5) * 6)) * _SIXTH
    unit = np.uint64(1)
    steps[r0], steps[r1], steps[r2] = unit << shifts[0], unit << shifts[1], unit << shifts[2]
    steps[r3], steps[r4], steps[r5] = unit << shifts[3], unit << shifts[4], np.uint64(0)
    key = ((np.uint64(k0) << shifts[0]) + (np.uint64(k1) << shifts[1]) + (np.uint64(k2) << shifts[2])
           + (np.uint64(k3) << shifts[3]) + (np.uint64(k4) << shifts[4]))
    return key, r0 | r1 << 3 | r2 << 6 | r3 << 9 | r4 << 12 | r5 << 15


@compile_cached
def embed_image(image, columns, rows, colours, shifts):
    """Return (vertices (N, 6) uint32, weights (N, 6) float32, packed keys (M,) uint64) of an image (H, W, 3).

    If the number of pixels is not a multiple of 4, the lattice also has the vertices around a black pixel at (0, 0):
    pydensecrf fills its last group of four with such pixels, and their vertices pass on what the blur brings them.
    """
    height, width = image.shape[0], image.shape[1]
    vertices, weights = np.empty((height * width, 6), np.uint32), np.empty((height * width, 6), np.float32)
    residuals, steps = np.zeros(6, np.float32), np.zeros(6, np.uint64)
    above_keys, above_orders = np.zeros(width, np.uint64), np.full(width, -1, np.int64)
    table, shift, keys, count = np.full(1 << 16, -1, np.int32), np.uint64(48), np.empty(1 << 16, np.uint64), 0
    zero, one = np.float32(0), np.float32(1)
    num_rows = height + int(height * width % 4 != 0)
    for y in range(num_rows):
        while table.size < 2 * (count + 6 * width):
            larger = np.empty(table.size * 2, np.uint64)
            larger[:count] = keys[:count]
            keys = larger
            table, shift = grow_table(keys, count, table)
        key, order = np.uint64(0), -1
        for x in range(width if y < height else 1):
            previous_key, previous_order = key, order
            if y < height:
                key, order = elevate_pixel(columns[x], rows[y], colours[0, image[y, x, 0]], colours[1, image[y, x, 1]],
                                           colours[2, image[y, x, 2]], shifts, residuals, steps)
            else:
                key, order = elevate_pixel(zero, zero, zero, zero, zero, shifts, residuals, steps)
            pixel = np.uint64(y * width + x)
            if y < height:
                weights[pixel, 0] = residuals[5] + (one - residuals[0])
                for corner in range(1, 6):
                    weights[pixel, corner] = residuals[5 - corner] - residuals[6 - corner]
            if y < height and x > 0 and key == previous_key and order == previous_order:
                for corner in range(6):
                    vertices[pixel, corner] = vertices[pixel - np.uint64(1), corner]
            elif y < height and key == above_keys[x] and order == above_orders[x]:
                for corner in range(6):
                    vertices[pixel, corner] = vertices[pixel - np.uint64(width), corner]
            else:
                corner_key = key
                for corner in range(6):
                    slot = find_vertex(corner_key, keys, table, shift)
                    if table[slot] < 0:
                        table[slot] = count
                        keys[count] = corner_key
                        count += 1
                    if y < height:
                        vertices[pixel, corner] = table[slot]
                    corner_key += np.uint64(1) - steps[5 - corner]
            above_keys[x], above_orders[x] = key, order
    return vertices, weights, keys[:count], table, shift


@compile_cached
def chain_neighbours(keys, table, shift, shifts):
    """Return the chains of neighbours along each of the 6 axes: vertices (P,) int32 and the end of each axis (6,).

    A chain is written in the order of the axis; its last vertex is stored as -1 - vertex. Vertices without any
    neighbour are left out, because the blur does not change them.
    """
    count = keys.size
    chains, ends, position = np.empty(count, np.int32), np.zeros(6, np.int64), 0
    following, has_previous = np.empty(count, np.int32), np.empty(count, np.bool_)
    unit, all_units = np.uint64(1), np.uint64(0)
    for coordinate in range(5):
        all_units += unit << shifts[coordinate]
    for axis in range(6):
        own = unit << shifts[axis] if axis < 5 else np.uint64(0)
        has_previous[:] = False
        for vertex in range(count):
            key = keys[vertex]
            key += (unit - own) if (key & np.uint64(7)) < np.uint64(5) else (all_units - own - np.uint64(5))
            neighbour = table[find_vertex(key, keys, table, shift)]
            following[vertex] = neighbour
            if neighbour >= 0:
                has_previous[np.uint64(neighbour)] = True
        if chains.size < position + count:
            larger = np.empty(2 * (position + count), np.int32)
            larger[:position] = chains[:position]
            chains = larger
        for vertex in range(count):
            if has_previous[vertex] or following[vertex] < 0:
                continue
            current = np.int64(vertex)
            while following[current] >= 0:
                chains[position] = current
                position += 1
                current = np.int64(following[current])
            chains[position] = -1 - current
            position += 1
        ends[axis] = position
    return chains[:position].copy(), ends


@compile_cached
def blur_chains(values, chains, channels):
    """Blur `values` (M * channels,) in place along all axes: each vertex gains half the sum of its two neighbours."""
    half = np.float32(0.5)
    for channel in range(channels):
        position = 0
        while position < chains.size:
            previous = np.float32(0)
            vertex = chains[position]
            index = np.uint64(vertex * channels + channel)
            current = values[index]
            while vertex >= 0:
                position += 1
                vertex = chains[position]
                next_vertex = vertex if vertex >= 0 else -1 - vertex
                next_index = np.uint64(next_vertex * channels + channel)
                following = values[next_index]
                values[index] = current + half * (previous + following)
                previous, current, index = current, following, next_index
            values[index] = current + half * previous
            position += 1
