"""Clustering by first neighbours, FINCH, exact at every size and in bounded memory.

Sarfraz, Sharma and Stiefelhagen, "Efficient Parameter-free Clustering Using First Neighbor Relations" (CVPR 2019),
eq. 1 and algorithm 1: points that are each other's first neighbour, or share one, are linked; the linked components
are clusters; their means are the points of the next level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

METRICS = ("cosine", "euclidean")
_BLOCK_VALUES = 1 << 20  # of a block of distances: 4 MB in float32, which stay in the cache
# Float32 products of unit vectors err by about 1e-6; what is closer to the best than this is compared in float64.
_CLOSE = 1e-5


def finch(points: np.ndarray, metric: str = "cosine", *, purity_filter: bool = False) -> list[np.ndarray]:
    """Return the partitions of `points` (N, D), finest first, each int32 (N,) with clusters numbered from 0.

    Numbers are in the order of first appearance. One point, or points that all link up, are one partition with one
    cluster; otherwise a partition with one cluster is left out. With `purity_filter` a link of a later level is cut
    when it is longer than every link of the first (`ensure_early_exit` of the released code). Raises ValueError for
    points that are no finite matrix.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points {points.shape} are no matrix of finite numbers with a row")
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if len(points) == 1:
        return [np.zeros(1, dtype=np.int32)]
    links = _links(first_neighbours(points, metric), weighed=purity_filter)
    limit = None
    if purity_filter and len(points) > 2:
        limit = max(float(lengths.max(initial=0)) for _, lengths in _link_lengths(points, links, metric))
    partitions = [_components(links)]
    while (count := int(partitions[-1].max()) + 1) > 1:
        means = _means(points, partitions[-1], count)
        links = _links(first_neighbours(means, metric), weighed=purity_filter)
        if limit is not None:
            links = _without_long(means, links, metric, limit)
        merged = _components(links)
        fewer = int(merged.max()) + 1
        if fewer == 1 or fewer == count:
            break
        partitions.append(merged[partitions[-1]])
    return partitions


def merge_to(points: np.ndarray, partition: np.ndarray, clusters: int, metric: str = "cosine") -> np.ndarray:
    """Return a partition with `clusters` clusters, from a finer one, by merging the closest means two at a time.

    Algorithm 2 of the paper. Raises ValueError when the partition has fewer.
    """
    points, current = np.ascontiguousarray(points, dtype=np.float32), partition.astype(np.int32)
    count = int(current.max()) + 1
    if count < clusters:
        raise ValueError(f"the partition has {count} clusters, not {clusters} or more")
    while count > clusters:
        means = _means(points, current, count)
        neighbours = first_neighbours(means, metric)
        lengths = _lengths(means, np.arange(count), neighbours, metric)
        first = int(lengths.argmin())
        low, high = sorted((first, int(neighbours[first])))
        current = np.where(current == high, low, current)
        current = (current - (current > high)).astype(np.int32)
        count -= 1
    return _in_order(current)


def first_neighbours(points: np.ndarray, metric: str) -> np.ndarray:
    """Return the index (N,) of each point's nearest other point; the lowest of equally near ones.

    Float32 products, each pair's once, tell which points can be the nearest; where that are several, float64 decides.
    """
    if metric == "cosine":
        prepared = _unit(_in_reach(points, 1))
    else:
        prepared = _in_reach(points, None)
        prepared -= prepared.mean(axis=0)
    halves = np.einsum("nd,nd->n", prepared, prepared) / 2
    search = _Search(points, metric, _CLOSE * (2 * float(halves.max(initial=0)) or 1.0))
    blocks = list(_blocks(len(points)))
    for place, (start, stop) in enumerate(blocks):
        for first, last in blocks[place:]:
            likeness = prepared[start:stop] @ prepared[first:last].T
            if metric == "euclidean":  # minus half the squared distance
                likeness -= halves[start:stop, None]
                likeness -= halves[first:last]
            if first == start:
                np.fill_diagonal(likeness, -np.inf)
            else:
                search.look(likeness.T, first, start)
            search.look(likeness, start, first)
    return search.nearest()


class _Search:
    """What is known of every point's nearest one, while blocks are looked at in the order of their columns."""

    def __init__(self, points: np.ndarray, metric: str, reach: float) -> None:
        """Take what is as like as the likest, but for `reach`, as a candidate."""
        self._points, self._metric, self._reach = points, metric, reach
        self._best = np.full(len(points), -np.inf, dtype=np.float32)
        self._settled = np.zeros(len(points), dtype=bool)
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def look(self, likeness: np.ndarray, start: int, first: int) -> None:
        """Keep at most one candidate a row of a block: rows from `start`, columns from `first` of all points."""
        own = slice(start, start + len(likeness))
        best, settled, top = self._best[own], self._settled[own], likeness.max(axis=1)
        np.maximum(best, top, out=best)
        rows = np.flatnonzero((top >= best - self._reach) & ~settled)
        if not len(rows):
            return
        near = likeness[rows]
        place, column = np.nonzero(near >= (best[rows] - self._reach)[:, None])
        row, value = rows[place], near[place, column]
        keep, lengths = self._shortest(start + row, first + column)
        # Nothing is nearer than what lies in the same place, and no column to come has a lower index.
        settled[row[keep[lengths == 0]]] = True
        self._kept.append((start + row[keep], first + column[keep], value[keep]))

    def nearest(self) -> np.ndarray:
        """Return the index (N,) of each point's nearest other one."""
        row, column, value = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        alive = value >= self._best[row] - self._reach
        order = np.flatnonzero(alive)[np.lexsort((column[alive], row[alive]))]
        row, column = row[order], column[order]
        return column[self._shortest(row, column)[0]]

    def _shortest(self, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the pairs is the shortest of its row, and its length (nan where it is the only one).

        Pairs are sorted by row and column. Where a row's first has length 0 the others are not looked at.
        """
        first = np.flatnonzero(np.diff(row, prepend=-1))
        counts = np.diff(first, append=len(row))
        lengths = np.full(len(row), np.nan)
        several = first[counts > 1]
        lengths[several] = self._lengths(row[several], column[several])
        head = np.repeat(first, counts)
        rest = np.flatnonzero((np.arange(len(row)) > head) & (lengths[head] != 0))
        lengths[rest] = self._lengths(row[rest], column[rest])
        chosen = np.lexsort((column, lengths, row))[first]
        return chosen, lengths[chosen]

    def _lengths(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        step = max(1, _BLOCK_VALUES // (8 * self._points.shape[1]))
        parts = [slice(start, start + step) for start in range(0, len(row), step)]
        return np.concatenate([np.zeros(0), *(_lengths(self._points, row[part], column[part], self._metric)
                                              for part in parts)])


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    size = max(1, math.isqrt(_BLOCK_VALUES))
    return ((start, min(count, start + size)) for start in range(0, count, size))


def _in_reach(points: np.ndarray, axis: int | None) -> np.ndarray:
    """Return points (N, D) with their largest number, or with `axis` 1 that of each, between 1/2 and 1.

    Divided by a power of two, so nothing is rounded; squares of 1e20 are no float32.
    """
    largest = np.maximum(points.max(axis, keepdims=True), -points.min(axis, keepdims=True))
    return np.ldexp(points, -np.frexp(largest)[1])


def _unit(points: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(lengths > 0, lengths, 1)


def _lengths(points: np.ndarray, one: np.ndarray, other: np.ndarray, metric: str) -> np.ndarray:
    """Return the distances of pairs of points in float64; what is 0 but for rounding is 0."""
    first, second = points[one].astype(np.float64), points[other].astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(first - second, axis=1)
    lengths = 1 - np.einsum("nd,nd->n", _unit(first), _unit(second))
    return np.where(lengths < 1e-12, 0.0, lengths)


def _links(neighbours: np.ndarray, *, weighed: bool) -> sparse.csr_matrix:
    """Return the links (N, N) of eq. 1; `weighed`, each as often as a reason holds: i to j, j to i, both to one.

    What shares a neighbour is connected through it anyway, so those links matter to the purity filter alone.
    """
    count = len(neighbours)
    to_first = sparse.csr_matrix((np.ones(count, dtype=np.float32), (np.arange(count), neighbours)), (count, count))
    if not weighed:
        return to_first
    both = (to_first + sparse.eye(count, dtype=np.float32, format="csr")).tocsr()
    return both @ both.T


def _link_lengths(points: np.ndarray, links: sparse.csr_matrix, metric: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (slice of the links, their distances times how often each holds), as the released code weighs them."""
    pairs = links.tocoo()
    step = max(1, _BLOCK_VALUES // max(1, 4 * points.shape[1]))
    for start in range(0, pairs.nnz, step):
        part = slice(start, start + step)
        lengths = _lengths(points, pairs.row[part], pairs.col[part], metric) * pairs.data[part]
        yield part, np.where(pairs.row[part] == pairs.col[part], 0, lengths)


def _without_long(points: np.ndarray, links: sparse.csr_matrix, metric: str, limit: float) -> sparse.csr_matrix:
    pairs = links.tocoo()
    keep = np.ones(pairs.nnz, dtype=bool)
    for part, lengths in _link_lengths(points, links, metric):
        keep[part] = lengths <= limit
    return sparse.csr_matrix((pairs.data[keep], (pairs.row[keep], pairs.col[keep])), links.shape)


def _components(links: sparse.csr_matrix) -> np.ndarray:
    return _in_order(connected_components(links, directed=True, connection="weak")[1])


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Return the labels renumbered by first appearance."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse]


def _means(points: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    belongs = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (count, len(labels)))
    return (belongs @ points.astype(np.float64) / np.bincount(labels, minlength=count)[:, None]).astype(np.float32)
