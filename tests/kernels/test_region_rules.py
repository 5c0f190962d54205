"""Labels and scores of regions: votes, sums and the regions that belong to a class, by hand and by loops."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels import region_vote
from stages.kernels.region_selection import convert_labels, convert_masks, select_regions
from stages.kernels.region_vote import number_ids, sum_in_regions, vote_in_regions

REGIONS = np.array([[0, 0, 7, 7], [3, 3, 7, 7], [3, 3, 3, 9]])
LABELS = np.array([[2, 1, 5, 255], [5, 5, 5, 0], [0, 0, 1, 255]])


def test_each_region_gets_its_most_frequent_label():
    voted = vote_in_regions(LABELS, REGIONS, skip=0, ignore=255)
    # Region 3 has two fives and two zeros: the smaller label. Region 9 has no vote, and region 0 is skipped.
    assert voted.tolist() == [[2, 1, 5, 5], [0, 0, 5, 5], [0, 0, 0, 255]]


def test_ignored_labels_vote_unless_named_and_region_zero_unless_skipped():
    labels = np.array([[255, 255, 1]], np.uint8)
    voted = vote_in_regions(labels, np.zeros((1, 3), np.int32), skip=-1)
    assert voted.tolist() == [[255, 255, 255]]
    assert voted.dtype == np.uint8


def vote_by_loops(labels: np.ndarray, regions: np.ndarray, skip: int) -> np.ndarray:
    voted = labels.copy()
    for region in set(regions.flatten().tolist()) - {skip}:
        values, counts = np.unique(labels[regions == region], return_counts=True)
        voted[regions == region] = values[counts.argmax()]
    return voted


@pytest.mark.parametrize("factor", [1, 100_000])
def test_votes_and_sums_equal_loops_for_any_ids(factor):
    generator = np.random.default_rng(2)
    regions = (generator.integers(-3, 9, (23, 31)) * factor).astype(np.int32)
    labels = generator.integers(0, 6, regions.shape).astype(np.uint16)
    assert (factor == 1) == (regions.max() - regions.min() < region_vote._MAX_TABLE), "both ways of numbering"
    np.testing.assert_array_equal(vote_in_regions(labels, regions, skip=2 * factor),
                                  vote_by_loops(labels, regions, 2 * factor))
    scores = generator.random((2, *regions.shape), dtype=np.float32)
    ids, positions = number_ids(regions)
    assert np.array_equal(ids[positions], regions) and ids.tolist() == sorted(set(regions.ravel().tolist()))
    expected = [scores[:, regions == region].sum(axis=1, dtype=np.float64) for region in ids]
    np.testing.assert_allclose(sum_in_regions(scores, positions, len(ids)), np.stack(expected, axis=1), rtol=1e-12)


def test_images_without_pixels_or_maps():
    assert vote_in_regions(np.zeros((0, 4), int), np.zeros((0, 4), int), skip=0).shape == (0, 4)
    assert sum_in_regions(np.zeros((0, 3, 4), np.float32), REGIONS, 10).shape == (0, 10)
    assert select_regions(LABELS, convert_masks(np.zeros((0, 3, 4), bool))).tolist() == (LABELS % 255).tolist()


def test_regions_join_class_by_share_or_by_cover():
    labels = np.zeros((4, 10), np.uint8)
    labels[:2] = 1
    regions = np.zeros((4, 10), np.int32)
    regions[0:3, 0:3] = 4  # 6 of 9 pixels in class 1
    regions[0:4, 3:5] = 6  # 4 of 8: rejected, and its pixels are taken from the class
    selected = select_regions(labels, convert_labels(regions, skip=0))
    expected = np.zeros((4, 10), int)
    expected[0:3, 0:3] = expected[0:2, 5:] = 1
    assert selected.tolist() == expected.tolist()
    assert select_regions(labels, convert_labels(np.full((4, 10), 5), skip=0)).all(), "it covers the whole class"


def test_later_classes_overwrite_and_masks_equal_labels():
    labels = np.array([[1, 1, 1, 2, 2, 255]])
    masks = np.array([[[True, True, True, True, False, False]], [[False, False, True, True, True, False]]])
    assert select_regions(labels, convert_masks(masks)).tolist() == [[1, 1, 2, 2, 2, 0]]
    generator = np.random.default_rng(4)
    regions, labels = generator.integers(0, 9, (12, 15)), generator.integers(0, 3, (12, 15))
    as_masks = np.stack([regions == region for region in range(1, 9)])
    np.testing.assert_array_equal(select_regions(labels, convert_labels(regions, skip=0)),
                                  select_regions(labels, convert_masks(as_masks)))
