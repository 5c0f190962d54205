"""Mean field of a dense CRF on one processor core, compiled with numba.

Computes what pydensecrf computes, in float32 and in its order of operations where that decides: vertices and weights
are equal bit by bit. Since the posteriors of all labels sum to 1, the last label is never filtered: its message is
that of the constant 1 less those of the other labels.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.numba_compiler import compile_cached
from stages.kernels.permutohedral_grid import blur_grid, embed_positions
from stages.kernels.permutohedral_hash import blur_chains, chain_neighbours, embed_image
from stages.kernels.permutohedral_keys import compute_scales, compute_shifts, scale_colours, scale_positions

_BLOCK = 256
_ALPHA_2, _ALPHA_5 = np.float32(1 / (1 + 2.0**-2)), np.float32(1 / (1 + 2.0**-5))
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND_HALF_EVEN = np.float32(12582912.0)
_SMALLEST_EXPONENT = np.float32(-87)


def infer_posteriors(image: np.ndarray, unary: np.ndarray, iterations: int, gaussian: tuple[float, float],
                     bilateral: tuple[float, float, float]) -> np.ndarray:
    """Return the posteriors (L, H, W) float32 of an image (H, W, 3) uint8 and energies `unary` (L, H, W), L > 1.

    `gaussian` is (sxy, weight) and `bilateral` is (sxy, srgb, weight). Raises BadData if the bilateral kernel is
    too narrow for the size of the image.
    """
    num_labels, height, width = unary.shape
    unary = np.ascontiguousarray(unary, np.float32).reshape(num_labels, -1)
    grid = embed_positions(*scale_positions(width, height, gaussian[0], compute_scales(2)))
    scales = compute_scales(5)
    columns, rows = scale_positions(width, height, bilateral[0], scales)
    colours = scale_colours(bilateral[1], scales)
    shifts = compute_shifts(columns, rows, colours)
    vertices, weights, keys, table, shift = embed_image(np.ascontiguousarray(image), columns, rows, colours, shifts)
    chains, _ = chain_neighbours(keys, table, shift, shifts)
    posteriors = iterate_mean_field(unary, iterations, np.float32(gaussian[1]), np.float32(bilateral[2]), *grid,
                                    vertices, weights, chains, keys.size)
    return posteriors.reshape(num_labels, height, width)


@compile_cached
def splat_values(values, vertices, weights, lattice):
    """Add `values` (N,) times their weights to the `lattice` of one channel, in the order of the pixels."""
    for index in range(values.size):
        pixel = np.uint64(index)
        for corner in range(vertices.shape[1]):
            lattice[vertices[pixel, corner]] += weights[pixel, corner] * values[pixel]


@compile_cached
def slice_values(lattice, vertices, weights, alpha, values):
    """Fill `values` (N,) with the interpolated `lattice` of one channel, times `alpha`."""
    for index in range(values.size):
        pixel = np.uint64(index)
        total = np.float32(0)
        for corner in range(vertices.shape[1]):
            total += weights[pixel, corner] * lattice[vertices[pixel, corner]]
        values[pixel] = total * alpha


@compile_cached
def filter_constant(g_vertices, g_weights, shape, first_row, present, vertices, weights, chains, count):
    """Return (norms, messages of the constant 1) of both kernels: 4 arrays (N,) float32."""
    num_pixels = len(vertices)
    ones, small = np.ones(num_pixels, np.float32), np.float32(1e-20)
    g_norm, b_norm = np.empty(num_pixels, np.float32), np.empty(num_pixels, np.float32)
    g_total, b_total = np.empty(num_pixels, np.float32), np.empty(num_pixels, np.float32)
    for step in range(2):
        grid, spare = np.zeros(present.size, np.float32), np.zeros(present.size, np.float32)
        splat_values(ones if step == 0 else g_norm, g_vertices, g_weights, grid)
        blurred = blur_grid(grid, spare, present, shape, first_row, 1)
        slice_values(blurred, g_vertices, g_weights, _ALPHA_2, g_total)
        lattice = np.zeros(count, np.float32)
        splat_values(ones if step == 0 else b_norm, vertices, weights, lattice)
        blur_chains(lattice, chains, 1)
        slice_values(lattice, vertices, weights, _ALPHA_5, b_total)
        if step == 0:
            for pixel in range(num_pixels):
                g_norm[pixel] = np.float32(1) / np.sqrt(g_total[pixel] + small)
                b_norm[pixel] = np.float32(1) / np.sqrt(b_total[pixel] + small)
    return g_norm, b_norm, g_total * g_norm, b_total * b_norm


@compile_cached
def normalise_block(block, length):
    """Replace the logits `block` (L, length) by their softmax over the labels.

    The exponential is a polynomial (Cephes) within 2 units in the last place, which vector instructions can compute.
    """
    num_labels = block.shape[0]
    largest = block[0, :length].copy()
    exponents = np.empty(length, np.int32)
    powers = exponents.view(np.float32)
    for label in range(1, num_labels):
        row = block[label, :length]
        for j in range(length):
            largest[j] = row[j] if row[j] > largest[j] else largest[j]
    for label in range(num_labels):
        row = block[label, :length]
        for j in range(length):
            x = row[j] - largest[j]
            x = x if x > _SMALLEST_EXPONENT else _SMALLEST_EXPONENT
            n = (x * _LOG2_E + _ROUND_HALF_EVEN) - _ROUND_HALF_EVEN
            exponents[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
            x = (x - n * _LN2_HIGH) - n * _LN2_LOW
            y = np.float32(1.9875691500e-4)
            y = y * x + np.float32(1.3981999507e-3)
            y = y * x + np.float32(8.3334519073e-3)
            y = y * x + np.float32(4.1665795894e-2)
            y = y * x + np.float32(1.6666665459e-1)
            y = y * x + np.float32(5.0000001201e-1)
            row[j] = y * x * x + x + np.float32(1)
        for j in range(length):
            row[j] *= powers[j]
    totals = block[0, :length].copy()
    for label in range(1, num_labels):
        row = block[label, :length]
        for j in range(length):
            totals[j] += row[j]
    for label in range(num_labels):
        row = block[label, :length]
        for j in range(length):
            row[j] /= totals[j]


@compile_cached
def iterate_mean_field(unary, iterations, g_weight, b_weight, g_vertices, g_weights, shape, first_row, present,
                       vertices, weights, chains, count):
    """Return the posteriors (L, N) of energies `unary` (L, N) after parallel updates with both kernels."""
    num_labels, num_pixels = unary.shape
    channels, last = num_labels - 1, num_labels - 1
    g_norm, b_norm, g_total, b_total = filter_constant(g_vertices, g_weights, shape, first_row, present, vertices,
                                                       weights, chains, count)
    size = present.size
    old_grid, new_grid = np.zeros(size * channels, np.float32), np.zeros(size * channels, np.float32)
    spare = np.zeros(size * channels, np.float32)
    old, new = np.zeros(count * channels, np.float32), np.zeros(count * channels, np.float32)
    posteriors = np.empty((num_labels, num_pixels), np.float32)
    block = np.empty((num_labels, _BLOCK), np.float32)
    for iteration in range(iterations + 1):
        for start in range(0, num_pixels, _BLOCK):
            length = min(_BLOCK, num_pixels - start)
            for j in range(length):
                pixel = start + j
                block[last, j] = g_weight * g_total[pixel] + b_weight * b_total[pixel] - unary[last, pixel]
                if iteration == 0:
                    block[last, j] = -unary[last, pixel]
            for channel in range(channels):
                if iteration == 0:
                    for j in range(length):
                        block[channel, j] = -unary[channel, start + j]
                    continue
                plane = np.uint64(channel * size)
                c, width = np.uint64(channel), np.uint64(channels)
                for j in range(length):
                    p = np.uint64(start + j)
                    message = weights[p, 0] * old[np.uint64(vertices[p, 0]) * width + c]
                    for corner in range(1, 6):
                        message += weights[p, corner] * old[np.uint64(vertices[p, corner]) * width + c]
                    smooth = g_weights[p, 0] * old_grid[plane + np.uint64(g_vertices[p, 0])]
                    for corner in range(1, 3):
                        smooth += g_weights[p, corner] * old_grid[plane + np.uint64(g_vertices[p, corner])]
                    added = (g_weight * (g_norm[p] * (smooth * _ALPHA_2))
                             + b_weight * (b_norm[p] * (message * _ALPHA_5)))
                    block[channel, j] = added - unary[channel, p]
                    block[last, j] -= added
            normalise_block(block, length)
            if iteration == iterations:
                posteriors[:, start:start + length] = block[:, :length]
                continue
            for channel in range(channels):
                plane = np.uint64(channel * size)
                c, width = np.uint64(channel), np.uint64(channels)
                for j in range(length):
                    p = np.uint64(start + j)
                    smooth, value = g_norm[p] * block[channel, j], b_norm[p] * block[channel, j]
                    for corner in range(6):
                        new[np.uint64(vertices[p, corner]) * width + c] += weights[p, corner] * value
                    for corner in range(3):
                        new_grid[plane + np.uint64(g_vertices[p, corner])] += g_weights[p, corner] * smooth
        if iteration < iterations:
            blurred = blur_grid(new_grid, spare, present, shape, first_row, channels)
            spare, old_grid, new_grid = new_grid, blurred, old_grid
            blur_chains(new, chains, channels)
            old, new = new, old
            new_grid[:] = 0
            new[:] = 0
    return posteriors
