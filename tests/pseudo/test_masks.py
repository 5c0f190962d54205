"""Pseudo masks of CAMs and their confidence."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.background import Background
from stages.pseudo.masks import build_pseudo_mask

IDS = np.array([1, 4], np.uint16)


@pytest.fixture
def cam() -> np.ndarray:
    return np.random.default_rng(2).random((2, 6, 7)).astype(np.float32)


def test_mask_and_confidence_with_background(cam):
    mask, confidence = build_pseudo_mask(cam, IDS, Background("constant", (0.5,)), num_classes=20, min_confidence=0)
    for y in range(6):
        for x in range(7):
            scores = cam[:, y, x].astype(np.float64)
            assert mask[y, x] == (0 if scores.max() <= 0.5 else IDS[scores.argmax()])
            assert confidence[y, x] == round(255 * max(scores.max(), 1 - scores.max()))
    assert mask.dtype == confidence.dtype == np.uint8


def test_confidence_of_direct_scores_is_the_maximum(cam):
    scores = np.concatenate([np.full((1, 6, 7), 0.4, np.float32), cam])
    ids = np.array([0, 1, 4], np.uint16)
    mask, confidence = build_pseudo_mask(scores, ids, None, num_classes=20, min_confidence=0)
    np.testing.assert_array_equal(mask, ids[scores.argmax(axis=0)])
    np.testing.assert_array_equal(confidence, np.round(scores.max(axis=0) * 255))


@pytest.mark.parametrize("background", [None, Background("constant", (0.3,))], ids=["rows", "maps"])
def test_pixels_below_min_confidence_are_ignored(cam, background):
    full_mask, confidence = build_pseudo_mask(cam, IDS, background, num_classes=20, min_confidence=0)
    mask, same_confidence = build_pseudo_mask(cam, IDS, background, num_classes=20, min_confidence=0.8)
    strongest = cam.max(axis=0)
    expected_confidence = strongest if background is None else np.maximum(strongest, 1 - strongest)
    np.testing.assert_array_equal(mask, np.where(expected_confidence < 0.8, 255, full_mask))
    np.testing.assert_array_equal(confidence, same_confidence)
    assert 0 < (mask == 255).sum() < mask.size


def test_two_thresholds_leave_pixels_undecided(cam):
    mask, _ = build_pseudo_mask(cam, IDS, Background("two-thresholds", (0.3, 0.7)), num_classes=20, min_confidence=0)
    strongest = cam.max(axis=0)
    np.testing.assert_array_equal(mask == 255, (strongest > 0.3) & (strongest <= 0.7))
    np.testing.assert_array_equal(mask == 0, strongest <= 0.3)


@pytest.mark.parametrize(("num_classes", "dtype", "ignore"), [(254, np.uint8, 255), (255, np.uint16, 65535)])
def test_more_than_254_classes_need_16_bits(cam, num_classes, dtype, ignore):
    ids = np.array([1, num_classes], np.uint16)
    background = Background("two-thresholds", (0.3, 0.7))
    mask, _ = build_pseudo_mask(cam, ids, background, num_classes=num_classes, min_confidence=0)
    assert mask.dtype == dtype
    assert set(np.unique(mask).tolist()) == {0, 1, num_classes, ignore}


def test_an_image_without_classes(cam):
    mask, confidence = build_pseudo_mask(cam[:0], IDS[:0], Background("constant", (0.3,)), num_classes=2,
                                         min_confidence=0.9)
    assert not mask.any()
    assert (confidence == 255).all()
