"""FINCH beyond the reference values: blocks, merging to a number, what is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stages.kernels import first_neighbours
from stages.kernels.first_neighbours import METRICS, finch, merge_to


def blobs(count: int, each: int, seed: int = 0) -> np.ndarray:
    """Return points about well separated centres."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((count, 16)) * 10
    return (centres[:, None] + generator.standard_normal((count, each, 16)) * 0.1).reshape(-1, 16).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_do_not_matter(monkeypatch, metric):
    points = np.random.default_rng(3).standard_normal((257, 16)).astype(np.float32)
    points[100:110] = points[5]
    whole = finch(points, metric)
    monkeypatch.setattr(first_neighbours, "_BLOCK_VALUES", 1000)
    for one, other in zip(whole, finch(points, metric), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_the_nearest(metric):
    points = np.random.default_rng(4).standard_normal((150, 8)).astype(np.float32)
    exact = points.astype(np.float64)
    if metric == "cosine":
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    distances = ((exact[:, None] - exact[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(first_neighbours.first_neighbours(points, metric), distances.argmin(1))


def test_partitions_are_nested_and_shrink():
    partitions = finch(np.random.default_rng(5).standard_normal((400, 8)).astype(np.float32))
    counts = [int(one.max()) + 1 for one in partitions]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == len(counts)
    for finer, coarser in pairwise(partitions):
        assert len(np.unique(np.stack([finer, coarser]), axis=1).T) == finer.max() + 1


@pytest.mark.parametrize("wanted", [1, 2, 3, 6])
def test_merging_to_a_number_of_clusters(wanted):
    points = blobs(6, 20)
    found = merge_to(points, finch(points, "euclidean")[0], wanted, "euclidean")
    assert sorted(set(found.tolist())) == list(range(wanted))
    if wanted == 6:
        np.testing.assert_array_equal(found, np.repeat(np.arange(6), 20))
    with pytest.raises(ValueError, match="2 clusters, not 3"):
        merge_to(points, np.repeat([0, 1], 60), 3)


def test_small_and_equal_sets():
    assert [one.tolist() for one in finch(np.ones((1, 4)))] == [[0]]
    assert [one.tolist() for one in finch(np.zeros((3, 4)))] == [[0, 0, 0]]
    assert [one.tolist() for one in finch(np.ones((5, 4)), "euclidean")] == [[0] * 5]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [2.0**-90, 2.0**67, 2.0**110])
def test_the_size_of_the_numbers_does_not_matter(metric, size):
    """Up to where the squares of float32 end, and beyond: 2^110 is 1.3e33."""
    points = blobs(5, 8)
    wanted, found = finch(points, metric), finch(points * np.float32(size), metric)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(merge_to(points * np.float32(size), found[0], 2, metric),
                                  merge_to(points, wanted[0], 2, metric))


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan, 1.0]]), np.array([[np.inf]])])
def test_what_is_no_matrix_of_numbers(points):
    with pytest.raises(ValueError, match="finite numbers"):
        finch(points)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block", [7, 1 << 20])
def test_near_and_equal_points_are_told_apart_as_in_float64(monkeypatch, metric, block):
    """Distances far below float32's step beside the points' size; copies, of which the first is the nearest."""
    monkeypatch.setattr(first_neighbours, "_BLOCK_VALUES", block)
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
    found = first_neighbours.first_neighbours(points, metric)
    np.testing.assert_array_equal(found, distances.argmin(1))
    assert found[[9, 20, 33, 59]].tolist() == [20, 9, 9, 9]


def test_many_equal_points_cost_one_comparison_each(monkeypatch):
    compared = []
    lengths = first_neighbours._lengths
    monkeypatch.setattr(first_neighbours, "_lengths", lambda points, one, other, metric: compared.append(
        len(one)) or lengths(points, one, other, metric))
    points = np.ones((3000, 4), dtype=np.float32)
    found = first_neighbours.first_neighbours(points, "cosine")
    assert found.tolist() == [1, *[0] * 2999]
    assert sum(compared) == 3000
