"""Trace the contours of a mask as polygons, with holes cut open, and rasterise polygons again.

Vertices are the centres of the cracks between object and background pixels, moved 0.1 pixels into the object, in
coordinates in which pixel (row, column) covers [column, column + 1) x [row, row + 1). Thus both kinds of rasteriser
reproduce the mask: those that ask whether the centre of a pixel is inside (pycocotools, CVAT, datumaro), and those that
cut the coordinates to whole numbers and draw the outline as part of the object (Pillow, OpenCV, labelme, ultralytics).
Contours through the corners of pixels would grow by a pixel at the right and lower side in the second kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

_INSET = 0.1  # pixels; the smallest that survives 6 decimals in images of 100,000 pixels
# Directions 0..3: right, down, left, up; the object is to the right of each crack.
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
_MIDPOINTS = np.array([(0.5, _INSET), (-_INSET, 0.5), (-0.5, -_INSET), (_INSET, -0.5)])
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


def split_components(mask: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the connected components of a boolean mask (H, W): (bounding box, boolean mask in the box).

    Pixels that touch at a corner belong together. The order is that of the first pixel in rows.
    """
    from scipy import ndimage  # not at the top: exports without components start without it
    labels, _ = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        yield box, labels[box] == label


def trace_polygon(component: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the contour of one connected component (h, w) as one closed polygon (P, 2) of x and y, and fixed vertices.

    A hole is connected with the ring around it by a cut of no width, so that filling the polygon leaves the hole out.
    The ends of cuts (P,) are fixed: both sides of a cut need them. Vertices on straight lines are left out.
    """
    cracks = _Cracks(component)
    rings = cracks.find_rings()
    edges, is_fixed = _join_rings(cracks, rings)
    points = cracks.compute_points(edges)
    keep = _find_bends(points) | is_fixed
    return points[keep], is_fixed[keep]


def simplify_polygon(points: np.ndarray, is_fixed: np.ndarray, tolerance: float) -> np.ndarray:
    """Return a closed polygon (P, 2) without the vertices that are at most `tolerance` pixels from its new contour.

    Fixed vertices (P,) stay. Source: Douglas and Peucker, 1973.
    """
    return points[_select_vertices(points, is_fixed, tolerance)]


class _Cracks:
    """The directed unit edges between object and background pixels, in the order of their start vertices."""

    def __init__(self, component: np.ndarray) -> None:
        padded = np.pad(component.astype(bool), 1)
        self.width = padded.shape[1]
        above, below = padded[:-1, 1:-1], padded[1:, 1:-1]
        left, right = padded[1:-1, :-1], padded[1:-1, 1:]
        starts, directions = [], []
        for is_edge, direction, offset in ((below & ~above, 0, (0, 0)), (left & ~right, 1, (0, 0)),
                                           (above & ~below, 2, (1, 0)), (right & ~left, 3, (0, 1))):
            y, x = np.nonzero(is_edge)
            starts.append(self._encode(x + offset[0], y + offset[1]))
            directions.append(np.full(len(x), direction))
        start, direction = np.concatenate(starts), np.concatenate(directions)
        order = np.lexsort((direction, start))
        self.start, self.direction = start[order], direction[order]
        self.x, self.y = self.start % self.width, self.start // self.width

    def _encode(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return y.astype(np.int64) * self.width + x

    def find_successors(self) -> np.ndarray:
        """Return the next edge of each edge; where four meet, the left turn, which joins pixels at a corner."""
        step = _STEPS[self.direction]
        end = self.start + step[:, 1] * self.width + step[:, 0]
        first = np.searchsorted(self.start, end)
        second = np.minimum(first + 1, len(self.start) - 1)
        turns_left = (self.start[second] == end) & (self.direction[second] == (self.direction - 1) % 4)
        return np.where(turns_left, second, first)

    def find_rings(self) -> list[list[int]]:
        """Return the closed contours as lists of edges: the outer one first, then the holes from left to right.

        Each starts with its first edge among those that lie furthest to the left.
        """
        successors = self.find_successors().tolist()
        is_new = [True] * len(successors)
        rings = []
        for edge in np.lexsort((self.direction, self.y, self.x)).tolist():
            ring = []
            while is_new[edge]:
                is_new[edge] = False
                ring.append(edge)
                edge = successors[edge]
            if ring:
                rings.append(ring)
        return rings

    def find_left_neighbours(self, edges: np.ndarray) -> np.ndarray:
        """Return, for vertical edges with the object on their left, the nearest edge to the left in the same row."""
        vertical = np.flatnonzero(self.direction % 2)
        row = self.y[vertical] - (self.direction[vertical] == 3)
        key = self._encode(self.x[vertical], row)
        order = np.argsort(key)
        position = np.searchsorted(key[order], self._encode(self.x[edges], self.y[edges]))
        return vertical[order[position - 1]]

    def compute_points(self, edges: np.ndarray) -> np.ndarray:
        """Return the point (x, y) of each edge: its centre, moved into the object."""
        return np.stack([self.x[edges], self.y[edges]], 1) + _MIDPOINTS[self.direction[edges]]


def _join_rings(cracks: _Cracks, rings: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all rings as one sequence of edges, and where it has the end of a cut, whose points must stay.

    A hole is cut open at its leftmost edge: the pixels from there to the next edge on the left belong to the object.
    """
    outer, *holes = rings
    if not holes:
        return np.array(outer), np.zeros(len(outer), dtype=bool)
    holes = [_rotate_to_downward_edge(cracks, hole) for hole in holes]
    neighbours = cracks.find_left_neighbours(np.array([hole[0] for hole in holes])).tolist()
    inserted: dict[int, list[tuple[int, bool]]] = {}
    # The ring on the left of a hole begins further to the left, so from right to left every hole has its own holes.
    for hole, neighbour in sorted(zip(holes, neighbours, strict=True), key=lambda pair: -cracks.x[pair[0][0]]):
        sequence = _insert_holes(hole, inserted)
        cut = [(hole[0], True), *sequence[1:], (hole[0], True), (neighbour, True)]
        inserted[neighbour] = inserted.get(neighbour, []) + cut
    edges, is_fixed = zip(*_insert_holes(outer, inserted), strict=True)
    return np.array(edges), np.array(is_fixed)


def _rotate_to_downward_edge(cracks: _Cracks, ring: list[int]) -> list[int]:
    """Return a hole that starts with the uppermost of its leftmost edges, all of which lead down."""
    leftmost = min(int(cracks.x[edge]) for edge in ring if cracks.direction[edge] == 1)
    start = next(index for index, edge in enumerate(ring)
                 if cracks.direction[edge] == 1 and cracks.x[edge] == leftmost)
    return ring[start:] + ring[:start]


def _insert_holes(ring: list[int], inserted: dict[int, list[tuple[int, bool]]]) -> list[tuple[int, bool]]:
    sequence = []
    for edge in ring:
        holes = inserted.get(edge, [])
        sequence.append((edge, bool(holes)))
        sequence += holes
    return sequence


def _find_bends(points: np.ndarray) -> np.ndarray:
    """Return which points of a closed polygon are not on the straight line between their neighbours."""
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    return np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6


def _select_vertices(points: np.ndarray, is_fixed: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the indices of the vertices that the algorithm of Douglas and Peucker keeps, between fixed vertices."""
    anchors = set(np.flatnonzero(is_fixed).tolist()) | {0}
    if len(anchors) < 2:
        anchors.add(int(np.argmax(((points - points[0]) ** 2).sum(1))))
    keep = np.zeros(len(points) + 1, dtype=bool)
    ordered = [*sorted(anchors), len(points)]
    closed = np.concatenate([points, points[:1]])
    spans = list(pairwise(ordered))
    keep[ordered] = True
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distances = _compute_distances(closed[first + 1:last], closed[first], closed[last])
        furthest = int(np.argmax(distances))
        if distances[furthest] > tolerance:
            middle = first + 1 + furthest
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return np.flatnonzero(keep[:-1])


def _compute_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distances of points (P, 2) from a line segment."""
    along = end - start
    length = float(along @ along)
    fractions = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    offsets = points - start - fractions[:, None] * along
    return np.hypot(offsets[:, 0], offsets[:, 1])
