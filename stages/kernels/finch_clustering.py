"""FINCH clustering by first neighbours, exact at every size and in bounded memory.

Sarfraz, Sharma and Stiefelhagen, "Efficient Parameter-free Clustering Using First Neighbor Relations" (CVPR 2019),
eq. 1 and algorithm 1: points that are each other's first neighbour, or share one, are linked; the connected components
are clusters; their means are the points of the next level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

METRICS = ("cosine", "euclidean")
_BLOCK_VALUES = 1 << 20  # of a block of similarities: 4 MB in float32, which stay in the CPU cache
# Float32 products of unit vectors err by about 1e-6; candidates closer to the best than this are compared in float64.
_TOLERANCE = 1e-5


def finch(points: np.ndarray, metric: str = "cosine", *, purity_filter: bool = False) -> list[np.ndarray]:
    """Return the partitions of `points` (N, D), finest first, each int32 (N,) with clusters numbered from 0.

    Clusters are numbered in order of first appearance. A single point, or points that all link up, give one partition
    with one cluster; otherwise a partition with one cluster is left out. With `purity_filter` a link of a later level
    is cut when it is longer than every link of the first (`ensure_early_exit` of the released code). Raises ValueError
    if the points are not a finite matrix.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points {points.shape} are not a matrix of finite numbers with at least one row")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if len(points) == 1:
        return [np.zeros(1, dtype=np.int32)]
    links = _build_links(find_first_neighbours(points, metric), count_reasons=purity_filter)
    max_length = None
    if purity_filter and len(points) > 2:
        max_length = max(float(lengths.max(initial=0)) for _, lengths in _iterate_link_lengths(points, links, metric))
    partitions = [_find_components(links)]
    while (num_clusters := int(partitions[-1].max()) + 1) > 1:
        means = _compute_means(points, partitions[-1], num_clusters)
        links = _build_links(find_first_neighbours(means, metric), count_reasons=purity_filter)
        if max_length is not None:
            links = _remove_long_links(means, links, metric, max_length)
        merged = _find_components(links)
        num_merged = int(merged.max()) + 1
        if num_merged == 1 or num_merged == num_clusters:
            break
        partitions.append(merged[partitions[-1]])
    return partitions


def merge_clusters(points: np.ndarray, partition: np.ndarray, num_clusters: int, metric: str = "cosine") -> np.ndarray:
    """Merge a partition to `num_clusters` clusters, joining the two closest means at a time.

    Algorithm 2 of the paper. Raises ValueError when the partition has fewer clusters.
    """
    points, labels = np.ascontiguousarray(points, dtype=np.float32), partition.astype(np.int32)
    num_left = int(labels.max()) + 1
    if num_left < num_clusters:
        raise ValueError(f"the partition has {num_left} clusters, fewer than {num_clusters}")
    while num_left > num_clusters:
        means = _compute_means(points, labels, num_left)
        neighbours = find_first_neighbours(means, metric)
        distances = _compute_distances(means, np.arange(num_left), neighbours, metric)
        closest = int(distances.argmin())
        low, high = sorted((closest, int(neighbours[closest])))
        labels = np.where(labels == high, low, labels)
        labels = (labels - (labels > high)).astype(np.int32)
        num_left -= 1
    return _renumber_by_appearance(labels)


def find_first_neighbours(points: np.ndarray, metric: str) -> np.ndarray:
    """Return the index (N,) of each point's nearest other point; the lowest index on ties.

    Float32 products, computed once per pair, select the candidates; if a point has several, float64 decides.
    """
    if metric == "cosine":
        prepared = _scale_to_unit_length(_scale_by_power_of_two(points, 1))
    else:
        prepared = _scale_by_power_of_two(points, None)
        prepared -= prepared.mean(axis=0)
    half_squares = np.einsum("nd,nd->n", prepared, prepared) / 2
    search = _NearestSearch(points, metric, _TOLERANCE * (2 * float(half_squares.max(initial=0)) or 1.0))
    blocks = list(_iterate_blocks(len(points)))
    for index, (start, stop) in enumerate(blocks):
        for first, last in blocks[index:]:
            similarity = prepared[start:stop] @ prepared[first:last].T
            if metric == "euclidean":  # minus half the squared distance
                similarity -= half_squares[start:stop, None]
                similarity -= half_squares[first:last]
            if first == start:
                np.fill_diagonal(similarity, -np.inf)
            else:
                search.add_block(similarity.T, first, start)
            search.add_block(similarity, start, first)
    return search.select_nearest()


class _NearestSearch:
    """Collects candidates for every point's nearest other point while blocks are added in the order of columns."""

    def __init__(self, points: np.ndarray, metric: str, tolerance: float) -> None:
        """Prepare a search in which similarities within `tolerance` of the best are candidates."""
        self._points, self._metric, self._tolerance = points, metric, tolerance
        self._best = np.full(len(points), -np.inf, dtype=np.float32)
        self._is_settled = np.zeros(len(points), dtype=bool)
        self._candidates: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add_block(self, similarity: np.ndarray, first_row: int, first_column: int) -> None:
        """Add at most one candidate per row of a block that starts at `first_row`, `first_column` of all points."""
        block_rows = slice(first_row, first_row + len(similarity))
        best, is_settled = self._best[block_rows], self._is_settled[block_rows]
        block_best = similarity.max(axis=1)
        np.maximum(best, block_best, out=best)
        rows = np.flatnonzero((block_best >= best - self._tolerance) & ~is_settled)
        if not len(rows):
            return
        row_similarity = similarity[rows]
        index, column = np.nonzero(row_similarity >= (best[rows] - self._tolerance)[:, None])
        row, value = rows[index], row_similarity[index, column]
        chosen, distances = self._select_shortest(first_row + row, first_column + column)
        # No point is nearer than a duplicate, and later columns have higher indices.
        is_settled[row[chosen[distances == 0]]] = True
        self._candidates.append((first_row + row[chosen], first_column + column[chosen], value[chosen]))

    def select_nearest(self) -> np.ndarray:
        """Return the index (N,) of each point's nearest other point."""
        row, column, value = (np.concatenate(parts) for parts in zip(*self._candidates, strict=True))
        is_candidate = value >= self._best[row] - self._tolerance
        order = np.flatnonzero(is_candidate)[np.lexsort((column[is_candidate], row[is_candidate]))]
        row, column = row[order], column[order]
        return column[self._select_shortest(row, column)[0]]

    def _select_shortest(self, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of each row's shortest pair, and its distance (NaN where it is the row's only pair).

        Pairs are sorted by row and column. Where a row's first pair has distance 0 the others are not computed.
        """
        first = np.flatnonzero(np.diff(row, prepend=-1))
        num_pairs = np.diff(first, append=len(row))
        distances = np.full(len(row), np.nan)
        several = first[num_pairs > 1]
        distances[several] = self._compute_distances(row[several], column[several])
        first_of_row = np.repeat(first, num_pairs)
        others = np.flatnonzero((np.arange(len(row)) > first_of_row) & (distances[first_of_row] != 0))
        distances[others] = self._compute_distances(row[others], column[others])
        chosen = np.lexsort((column, distances, row))[first]
        return chosen, distances[chosen]

    def _compute_distances(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        step = max(1, _BLOCK_VALUES // (8 * self._points.shape[1]))
        parts = [slice(start, start + step) for start in range(0, len(row), step)]
        return np.concatenate([np.zeros(0), *(_compute_distances(self._points, row[part], column[part], self._metric)
                                              for part in parts)])


def _iterate_blocks(num_points: int) -> Iterator[tuple[int, int]]:
    size = max(1, math.isqrt(_BLOCK_VALUES))
    return ((start, min(num_points, start + size)) for start in range(0, num_points, size))


def _scale_by_power_of_two(points: np.ndarray, axis: int | None) -> np.ndarray:
    """Scale points (N, D) so that their largest magnitude, or each point's with `axis` 1, is between 1/2 and 1.

    A division by a power of two rounds nothing, and avoids overflow: the square of 1e20 is not a float32.
    """
    largest = np.maximum(points.max(axis, keepdims=True), -points.min(axis, keepdims=True))
    return np.ldexp(points, -np.frexp(largest)[1])


def _scale_to_unit_length(points: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1)


def _compute_distances(points: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str) -> np.ndarray:
    """Return the distances in float64 between the points at indices `first` and `second`; rounding errors become 0."""
    first_points, second_points = points[first].astype(np.float64), points[second].astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(first_points - second_points, axis=1)
    distances = 1 - np.einsum("nd,nd->n", _scale_to_unit_length(first_points), _scale_to_unit_length(second_points))
    return np.where(distances < 1e-12, 0.0, distances)


def _build_links(neighbours: np.ndarray, *, count_reasons: bool) -> sparse.csr_matrix:
    """Return the links (N, N) of eq. 1; with `count_reasons` their values count the conditions of eq. 1 that hold.

    The conditions are: i links to j, j links to i, both link to the same point. Points that share a neighbour are
    connected through it anyway, so only the purity filter needs those links.
    """
    num_points = len(neighbours)
    ones, rows = np.ones(num_points, dtype=np.float32), np.arange(num_points)
    to_first = sparse.csr_matrix((ones, (rows, neighbours)), (num_points, num_points))
    if not count_reasons:
        return to_first
    both = (to_first + sparse.eye(num_points, dtype=np.float32, format="csr")).tocsr()
    return both @ both.T


def _iterate_link_lengths(points: np.ndarray, links: sparse.csr_matrix,
                          metric: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of the links, their distances multiplied by their values), as the released code weighs them."""
    pairs = links.tocoo()
    step = max(1, _BLOCK_VALUES // max(1, 4 * points.shape[1]))
    for start in range(0, pairs.nnz, step):
        part = slice(start, start + step)
        lengths = _compute_distances(points, pairs.row[part], pairs.col[part], metric) * pairs.data[part]
        yield part, np.where(pairs.row[part] == pairs.col[part], 0, lengths)


def _remove_long_links(points: np.ndarray, links: sparse.csr_matrix, metric: str,
                       max_length: float) -> sparse.csr_matrix:
    pairs = links.tocoo()
    is_short = np.ones(pairs.nnz, dtype=bool)
    for part, lengths in _iterate_link_lengths(points, links, metric):
        is_short[part] = lengths <= max_length
    return sparse.csr_matrix((pairs.data[is_short], (pairs.row[is_short], pairs.col[is_short])), links.shape)


def _find_components(links: sparse.csr_matrix) -> np.ndarray:
    return _renumber_by_appearance(connected_components(links, directed=True, connection="weak")[1])


def _renumber_by_appearance(labels: np.ndarray) -> np.ndarray:
    """Return the labels renumbered in order of first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def _compute_means(points: np.ndarray, labels: np.ndarray, num_clusters: int) -> np.ndarray:
    members = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (num_clusters, len(labels)))
    sizes = np.bincount(labels, minlength=num_clusters)[:, None]
    return (members @ points.astype(np.float64) / sizes).astype(np.float32)
