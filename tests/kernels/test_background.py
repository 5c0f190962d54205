"""The rules of the background, against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.background import (
    Background,
    confidence_of_maps,
    mask_of_maps,
    mask_of_rows,
    parse_background,
    with_background,
)

IGNORE = 255
RULES = [Background("constant", (0.3,)), Background("power", (1.0,)), Background("power", (4.0,)),
         Background("two-thresholds", (0.25, 0.6))]


@pytest.fixture
def cam() -> np.ndarray:
    """Return maps (3, 9, 11) of steps of 1/16, so that pixels tie with each other and with the background."""
    random = np.random.default_rng(5)
    return (random.integers(0, 17, (3, 9, 11)) / 16).astype(np.float32)


def by_hand(pixel: np.ndarray, ids: list[int], background: Background) -> int:
    """Decide one pixel in float64 from the definition of the rule."""
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
def test_masks_are_those_of_the_definition(cam, background):
    ids = [2, 5, 9]
    mask = mask_of_maps(cam, np.array(ids, np.uint16), background, IGNORE)
    expected = [[by_hand(cam[:, y, x], ids, background) for x in range(11)] for y in range(9)]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("background", RULES, ids=str)
def test_an_image_without_classes_is_background(background):
    none = np.zeros((0, 4, 5), np.float32)
    assert with_background(none, background).shape == (1, 4, 5)
    np.testing.assert_array_equal(mask_of_maps(none, np.zeros(0, np.uint16), background, IGNORE), np.zeros((4, 5)))
    np.testing.assert_array_equal(confidence_of_maps(none), np.ones((4, 5)))


def test_ties_go_to_the_background_and_then_to_the_first_class():
    cam = np.array([[[0.25, 0.5, 0.5]], [[0.25, 0.5, 0.75]]], np.float32)
    ids = np.array([3, 7], np.uint16)
    np.testing.assert_array_equal(mask_of_maps(cam, ids, Background("constant", (0.25,)), IGNORE), [[0, 3, 7]])
    np.testing.assert_array_equal(mask_of_maps(cam, ids, Background("power", (1.0,)), IGNORE), [[0, 0, 7]])
    np.testing.assert_array_equal(mask_of_rows(cam, ids), [[3, 3, 7]])


def test_the_rows_are_the_background_and_the_maps_as_they_were(cam):
    rows = with_background(cam, Background("power", (2.0,)))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[1:], cam)
    np.testing.assert_allclose(rows[0], (1 - cam.astype(np.float64).max(axis=0)) ** 2, atol=1e-7)
    assert (with_background(cam, Background("constant", (0.3,)))[0] == np.float32(0.3)).all()


def test_confidence_is_equation_8_of_clip_es(cam):
    strongest = cam.astype(np.float64).max(axis=0)
    expected = np.where(strongest > 0.5, strongest, 1 - strongest)
    np.testing.assert_allclose(confidence_of_maps(cam), expected, atol=1e-7)
    assert confidence_of_maps(cam).min() >= 0.5


@pytest.mark.parametrize(("text", "rule", "values"), [
    ("constant:0.3", "constant", (0.3,)), ("constant:0", "constant", (0.0,)), ("power:1.5", "power", (1.5,)),
    ("two-thresholds:0.1,0.4", "two-thresholds", (0.1, 0.4))])
def test_a_rule_is_read_and_spelled(text, rule, values):
    background = parse_background(text)
    assert (background.rule, background.values) == (rule, values)
    assert str(background) == text


@pytest.mark.parametrize("text", [
    "", "constant", "constant:", "constant:x", "constant:0.1,0.2", "constant:1.5", "constant:-0.1", "constant:nan",
    "power:0", "power:-1", "power:nan", "power:inf", "two-thresholds:0.4", "two-thresholds:0.4,0.1",
    "two-thresholds:0.1,2", "otsu:1"])
def test_what_is_no_rule_is_refused_by_its_own_name(text):
    with pytest.raises(ValueError, match="'"):
        parse_background(text)
