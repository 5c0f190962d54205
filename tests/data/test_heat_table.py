"""Tables of numbers as pictures: where the cells stand, their colours, names and values."""

from __future__ import annotations

import numpy as np
import pytest

from stages.data.draw import heat
from stages.data.heat_table import LINE, heat_table
from stages.data.sheet import MARGIN, PANEL, PAPER


def cells(picture: np.ndarray, count: int, side: int) -> np.ndarray:
    """Return the pixels of all cells, (rows, columns, side, side, 3)."""
    step = side + LINE
    start = [length - MARGIN - count * step + LINE for length in picture.shape[:2]]
    return np.array([[picture[start[0] + row * step:, start[1] + column * step:][:side, :side]
                      for column in range(count)] for row in range(count)])


def test_cells_have_the_colour_of_the_root_of_their_value():
    values = np.random.default_rng(0).random((4, 4))
    found = cells(heat_table(values, ["cat", "dog", "horse", "sofa"]), 4, 36)
    np.testing.assert_array_equal(found[:, :, 0, 0], heat(np.sqrt(values)))
    np.testing.assert_array_equal(found[:, :, -1, -1], heat(np.sqrt(values)))


def test_values_are_written_but_for_zero_and_for_what_is_no_number():
    values = np.array([[0.5, 0.0, np.nan], [0.001, 1.0, 0.04], [np.nan] * 3])
    found = cells(heat_table(values, "abc"), 3, 36)
    written = [[len(np.unique(one.reshape(-1, 3), axis=0)) > 1 for one in row] for row in found]
    assert written == [[True, False, False], [True, True, True], [False] * 3]
    assert (found[2] == PANEL).all()


def test_names_stand_at_both_axes_and_the_title_above():
    values = np.zeros((2, 2))
    plain, named = heat_table(values, ["", ""]), heat_table(values, ["aeroplane", "tvmonitor"])
    assert named.shape[0] > plain.shape[0] + 40
    assert named.shape[1] > plain.shape[1] + 40
    turned = named.transpose(1, 0, 2)
    for picture in (named, turned):
        start = picture.shape[0] - MARGIN - 2 * 37 + LINE
        inked = (picture[start:, :start] != PAPER).any(axis=(1, 2))
        assert inked[:36].any() and inked[37:73].any() and not inked[73:].any()
    titled = heat_table(values, ["a", "b"], title="A title that is wider than two cells")
    assert titled.shape[1] > heat_table(values, ["a", "b"]).shape[1]


@pytest.mark.parametrize(("count", "side"), [(1, 36), (30, 36), (31, 24), (101, 14), (301, 4)])
def test_cells_shrink_with_their_number(count, side):
    picture = heat_table(np.full((count, count), 0.25), ["a rather long name of a class that has no end"] * count)
    found = cells(picture, count, side)
    assert (found[:, :, 0, 0] == heat(np.full((1, 1), 0.5))).all()
    assert picture.shape[0] < 2 * MARGIN + 160 + count * (side + LINE)
    assert (found[0, 0] != found[0, 0, 0, 0]).any() == (side >= 24)


@pytest.mark.parametrize(("values", "names"), [
    (np.zeros((0, 0)), []), (np.zeros((2, 3)), "ab"), (np.zeros((2, 2)), "a")])
def test_what_is_no_table(values, names):
    with pytest.raises(ValueError, match="a table of shape"):
        heat_table(values, names)
