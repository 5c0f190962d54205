"""Maps to masks and their confidence."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.background import Background
from stages.pseudo.masks import pseudo_mask

IDS = np.array([1, 4], np.uint16)


@pytest.fixture
def cam() -> np.ndarray:
    return np.random.default_rng(2).random((2, 6, 7)).astype(np.float32)


def test_a_background_competes_and_confidence_is_of_the_maps(cam):
    mask, confidence = pseudo_mask(cam, IDS, Background("constant", (0.5,)), n_classes=20, min_confidence=0)
    for y in range(6):
        for x in range(7):
            scores = cam[:, y, x].astype(np.float64)
            assert mask[y, x] == (0 if scores.max() <= 0.5 else IDS[scores.argmax()])
            assert confidence[y, x] == round(255 * max(scores.max(), 1 - scores.max()))
    assert mask.dtype == confidence.dtype == np.uint8


def test_rows_that_compete_directly_are_as_sure_as_the_winner(cam):
    rows = np.concatenate([np.full((1, 6, 7), 0.4, np.float32), cam])
    ids = np.array([0, 1, 4], np.uint16)
    mask, confidence = pseudo_mask(rows, ids, None, n_classes=20, min_confidence=0)
    np.testing.assert_array_equal(mask, ids[rows.argmax(axis=0)])
    np.testing.assert_array_equal(confidence, np.round(rows.max(axis=0) * 255))


@pytest.mark.parametrize("background", [None, Background("constant", (0.3,))], ids=["rows", "maps"])
def test_pixels_of_less_confidence_are_ignored_and_no_others(cam, background):
    free, confidence = pseudo_mask(cam, IDS, background, n_classes=20, min_confidence=0)
    mask, same = pseudo_mask(cam, IDS, background, n_classes=20, min_confidence=0.8)
    strongest = cam.max(axis=0)
    sure = strongest if background is None else np.maximum(strongest, 1 - strongest)
    np.testing.assert_array_equal(mask, np.where(sure < 0.8, 255, free))
    np.testing.assert_array_equal(confidence, same)
    assert 0 < (mask == 255).sum() < mask.size


def test_two_thresholds_leave_pixels_undecided(cam):
    mask, _ = pseudo_mask(cam, IDS, Background("two-thresholds", (0.3, 0.7)), n_classes=20, min_confidence=0)
    strongest = cam.max(axis=0)
    np.testing.assert_array_equal(mask == 255, (strongest > 0.3) & (strongest <= 0.7))
    np.testing.assert_array_equal(mask == 0, strongest <= 0.3)


@pytest.mark.parametrize(("n_classes", "dtype", "ignore"), [(254, np.uint8, 255), (255, np.uint16, 65535)])
def test_more_than_254_classes_need_16_bits(cam, n_classes, dtype, ignore):
    ids = np.array([1, n_classes], np.uint16)
    mask, _ = pseudo_mask(cam, ids, Background("two-thresholds", (0.3, 0.7)), n_classes=n_classes, min_confidence=0)
    assert mask.dtype == dtype
    assert set(np.unique(mask).tolist()) == {0, 1, n_classes, ignore}


def test_an_image_without_classes(cam):
    mask, confidence = pseudo_mask(cam[:0], IDS[:0], Background("constant", (0.3,)), n_classes=2, min_confidence=0.9)
    assert not mask.any()
    assert (confidence == 255).all()
