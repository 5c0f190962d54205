"""FINCH beyond the reference values: block sizes, merging to a number of clusters, invalid input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stages.kernels import finch_clustering
from stages.kernels.finch_clustering import METRICS, finch, merge_clusters


def draw_blobs(num_blobs: int, points_per_blob: int, seed: int = 0) -> np.ndarray:
    """Draw points around well separated centres."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((num_blobs, 16)) * 10
    points = centres[:, None] + generator.standard_normal((num_blobs, points_per_blob, 16)) * 0.1
    return points.reshape(-1, 16).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_block_size_does_not_change_result(monkeypatch, metric):
    points = np.random.default_rng(3).standard_normal((257, 16)).astype(np.float32)
    points[100:110] = points[5]
    partitions = finch(points, metric)
    monkeypatch.setattr(finch_clustering, "_BLOCK_VALUES", 1000)
    for in_one_block, in_small_blocks in zip(partitions, finch(points, metric), strict=True):
        np.testing.assert_array_equal(in_one_block, in_small_blocks)


@pytest.mark.parametrize("metric", METRICS)
def test_first_neighbours_are_nearest(metric):
    points = np.random.default_rng(4).standard_normal((150, 8)).astype(np.float32)
    exact = points.astype(np.float64)
    if metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    distances = ((exact[:, None] - exact[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(finch_clustering.find_first_neighbours(points, metric), distances.argmin(1))


def test_partitions_are_nested_and_get_coarser():
    partitions = finch(np.random.default_rng(5).standard_normal((400, 8)).astype(np.float32))
    num_clusters = [int(partition.max()) + 1 for partition in partitions]
    assert num_clusters == sorted(num_clusters, reverse=True)
    assert len(set(num_clusters)) == len(num_clusters)
    for finer, coarser in pairwise(partitions):
        assert len(np.unique(np.stack([finer, coarser]), axis=1).T) == finer.max() + 1


@pytest.mark.parametrize("num_clusters", [1, 2, 3, 6])
def test_merge_to_number_of_clusters(num_clusters):
    points = draw_blobs(6, 20)
    merged = merge_clusters(points, finch(points, "euclidean")[0], num_clusters, "euclidean")
    assert sorted(set(merged.tolist())) == list(range(num_clusters))
    if num_clusters == 6:
        np.testing.assert_array_equal(merged, np.repeat(np.arange(6), 20))
    with pytest.raises(ValueError, match="2 clusters, fewer than 3"):
        merge_clusters(points, np.repeat([0, 1], 60), 3)


def test_single_and_identical_points():
    assert [partition.tolist() for partition in finch(np.ones((1, 4)))] == [[0]]
    assert [partition.tolist() for partition in finch(np.zeros((3, 4)))] == [[0, 0, 0]]
    assert [partition.tolist() for partition in finch(np.ones((5, 4)), "euclidean")] == [[0] * 5]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**67, 2.0**110])
def test_scale_of_points_does_not_change_result(metric, scale):
    """Also for values whose squares overflow float32: 2^110 is 1.3e33."""
    points = draw_blobs(5, 8)
    expected, partitions = finch(points, metric), finch(points * np.float32(scale), metric)
    assert len(partitions) == len(expected) > 0
    for partition, expected_partition in zip(partitions, expected, strict=True):
        np.testing.assert_array_equal(partition, expected_partition)
    np.testing.assert_array_equal(merge_clusters(points * np.float32(scale), partitions[0], 2, metric),
                                  merge_clusters(points, expected[0], 2, metric))


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan, 1.0]]), np.array([[np.inf]])])
def test_invalid_points_raise(points):
    with pytest.raises(ValueError, match="finite numbers"):
        finch(points)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_values", [7, 1 << 20])
def test_near_and_identical_points_as_in_float64(monkeypatch, metric, block_values):
    """Distances far below the float32 resolution of the points, and copies, of which the first is the nearest."""
    monkeypatch.setattr(finch_clustering, "_BLOCK_VALUES", block_values)
    generator = np.random.default_rng(6)
    points = np.repeat(generator.standard_normal((12, 8)), 5, axis=0) + generator.standard_normal((60, 8)) * 1e-6
    points = (points * 3 + (100 if metric == "euclidean" else 0)).astype(np.float32)
    points[[9, 33, 59]] = points[20]
    exact = points.astype(np.float64)
    if metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        distances = 1 - exact @ exact.T
        distances[distances < 1e-12] = 0
    else:
        distances = np.linalg.norm(exact[:, None] - exact[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    neighbours = finch_clustering.find_first_neighbours(points, metric)
    np.testing.assert_array_equal(neighbours, distances.argmin(1))
    assert neighbours[[9, 20, 33, 59]].tolist() == [20, 9, 9, 9]


def test_identical_points_cost_one_comparison_each(monkeypatch):
    num_compared = []
    compute_distances = finch_clustering._compute_distances

    def count_distances(points: np.ndarray, first: np.ndarray, second: np.ndarray, metric: str) -> np.ndarray:
        num_compared.append(len(first))
        return compute_distances(points, first, second, metric)

    monkeypatch.setattr(finch_clustering, "_compute_distances", count_distances)
    points = np.ones((3000, 4), dtype=np.float32)
    neighbours = finch_clustering.find_first_neighbours(points, "cosine")
    assert neighbours.tolist() == [1, *[0] * 2999]
    assert sum(num_compared) == 3000
