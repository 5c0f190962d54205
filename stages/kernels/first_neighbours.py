"""Clustering by first neighbours, FINCH, exact at every size and in bounded memory.

Sarfraz, Sharma and Stiefelhagen, "Efficient Parameter-free Clustering Using First Neighbor Relations" (CVPR 2019),
eq. 1 and algorithm 1: points that are each other's first neighbour, or share one, are linked; the linked components
are clusters; their means are the points of the next level.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

METRICS = ("cosine", "euclidean")
_BLOCK_VALUES = 16 << 20  # of a block of distances: 64 MB in float32
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
    """Return the index (N,) of each point's nearest other point; the lowest of equally near ones."""
    prepared = _unit(points) if metric == "cosine" else points
    squares = np.einsum("nd,nd->n", prepared, prepared)
    scale = float(squares.max(initial=0)) or 1.0
    found = np.empty(len(points), dtype=np.int64)
    for start, stop in _blocks(len(points)):
        likeness = prepared[start:stop] @ prepared.T
        if metric == "euclidean":
            likeness -= squares / 2  # the largest is the nearest
        rows = np.arange(stop - start)
        likeness[rows, start + rows] = -np.inf
        best = likeness.argmax(axis=1)
        close = likeness >= (likeness[rows, best] - _CLOSE * scale)[:, None]
        for row in np.flatnonzero(close.sum(axis=1) > 1):
            candidates = np.flatnonzero(close[row])
            lengths = _lengths(points, np.full(len(candidates), start + row), candidates, metric)
            best[row] = candidates[lengths.argmin()]
        found[start:stop] = best
    return found


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    size = max(1, _BLOCK_VALUES // count)
    return ((start, min(count, start + size)) for start in range(0, count, size))


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
