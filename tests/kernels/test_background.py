"""Background rules, compared with pixel-by-pixel loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.background import (
    Background,
    add_background_scores,
    cams_to_mask,
    compute_confidence,
    find_best_class,
    parse_background,
    scores_to_mask,
)

IGNORE = 255
RULES = [Background("constant", (0.3,)), Background("power", (1.0,)), Background("power", (4.0,)),
         Background("two-thresholds", (0.25, 0.6))]


@pytest.fixture
def cam() -> np.ndarray:
    """Return CAMs (3, 9, 11) in steps of 1/16, so that classes tie with each other and with the background."""
    random = np.random.default_rng(5)
    return (random.integers(0, 17, (3, 9, 11)) / 16).astype(np.float32)


def decide_pixel(pixel: np.ndarray, ids: list[int], background: Background) -> int:
    """Return the class of one pixel in float64, from the definition of the rule."""
    scores = [float(value) for value in pixel]
    strongest = max(scores)
    winner = ids[scores.index(strongest)]
    if background.rule == "constant":
        return 0 if strongest <= np.float32(background.values[0]) else winner
    if background.rule == "power":
        return 0 if strongest <= (1 - strongest) ** background.values[0] else winner
    low, high = background.values
    if strongest > np.float32(high):
        return winner
    return 0 if strongest <= low else IGNORE


@pytest.mark.parametrize("background", RULES, ids=str)
def test_mask_follows_rule_definition(cam, background):
    ids = [2, 5, 9]
    mask = cams_to_mask(cam, np.array(ids, np.uint16), background, IGNORE)
    expected = [[decide_pixel(cam[:, y, x], ids, background) for x in range(11)] for y in range(9)]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("background", RULES, ids=str)
def test_image_without_classes_is_background(background):
    empty = np.zeros((0, 4, 5), np.float32)
    assert add_background_scores(empty, background).shape == (1, 4, 5)
    np.testing.assert_array_equal(cams_to_mask(empty, np.zeros(0, np.uint16), background, IGNORE), np.zeros((4, 5)))
    np.testing.assert_array_equal(compute_confidence(empty), np.ones((4, 5)))


def test_ties_go_to_background_then_first_class():
    cam = np.array([[[0.25, 0.5, 0.5]], [[0.25, 0.5, 0.75]]], np.float32)
    ids = np.array([3, 7], np.uint16)
    np.testing.assert_array_equal(cams_to_mask(cam, ids, Background("constant", (0.25,)), IGNORE), [[0, 3, 7]])
    np.testing.assert_array_equal(cams_to_mask(cam, ids, Background("power", (1.0,)), IGNORE), [[0, 0, 7]])
    np.testing.assert_array_equal(scores_to_mask(cam, ids), [[3, 3, 7]])


def test_scores_are_background_and_unchanged_cams(cam):
    scores = add_background_scores(cam, Background("power", (2.0,)))
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores[1:], cam)
    np.testing.assert_allclose(scores[0], (1 - cam.astype(np.float64).max(axis=0)) ** 2, atol=1e-7)
    assert (add_background_scores(cam, Background("constant", (0.3,)))[0] == np.float32(0.3)).all()


def test_confidence_is_clip_es_equation_8(cam):
    strongest = cam.astype(np.float64).max(axis=0)
    expected = np.where(strongest > 0.5, strongest, 1 - strongest)
    np.testing.assert_allclose(compute_confidence(cam), expected, atol=1e-7)
    assert compute_confidence(cam).min() >= 0.5


@pytest.mark.parametrize(("text", "rule", "values"), [
    ("constant:0.3", "constant", (0.3,)), ("constant:0", "constant", (0.0,)), ("power:1.5", "power", (1.5,)),
    ("two-thresholds:0.1,0.4", "two-thresholds", (0.1, 0.4))])
def test_rule_parses_and_formats(text, rule, values):
    background = parse_background(text)
    assert (background.rule, background.values) == (rule, values)
    assert str(background) == text


@pytest.mark.parametrize("text", [
    "", "constant", "constant:", "constant:x", "constant:0.1,0.2", "constant:1.5", "constant:-0.1", "constant:nan",
    "power:0", "power:-1", "power:nan", "power:inf", "two-thresholds:0.4", "two-thresholds:0.4,0.1",
    "two-thresholds:0.1,2", "otsu:1"])
def test_invalid_rule_is_quoted_in_the_error(text):
    with pytest.raises(ValueError, match="'"):
        parse_background(text)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_best_class_is_the_first_of_the_highest_scores(cam, dtype):
    ids, best = find_best_class(cam, np.array([7, 2, 200], np.uint16), dtype)
    assert ids.dtype == dtype and best.dtype == np.float32
    np.testing.assert_array_equal(ids, np.array([7, 2, 200])[cam.argmax(axis=0)])
    np.testing.assert_array_equal(best, cam.max(axis=0))
