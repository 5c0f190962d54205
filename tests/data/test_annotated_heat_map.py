"""Annotated heat maps: positions of the cells, colours, names and values."""

from __future__ import annotations

import numpy as np
import pytest

from stages.data.annotated_heat_map import GRID_LINE_WIDTH, render_annotated_heat_map
from stages.data.contact_sheets import MARGIN, PANEL_COLOUR, PAPER_COLOUR
from stages.data.heat_maps import colour_heat_map


def crop_cells(sheet: np.ndarray, count: int, side: int) -> np.ndarray:
    """Return the pixels of all cells, (rows, columns, side, side, 3)."""
    step = side + GRID_LINE_WIDTH
    top, left = (length - MARGIN - count * step + GRID_LINE_WIDTH for length in sheet.shape[:2])
    return np.array([[sheet[top + row * step:, left + column * step:][:side, :side]
                      for column in range(count)] for row in range(count)])


def test_cells_are_coloured_by_the_square_root_of_their_value():
    values = np.random.default_rng(0).random((4, 4))
    cells = crop_cells(render_annotated_heat_map(values, ["cat", "dog", "horse", "sofa"]), 4, 36)
    np.testing.assert_array_equal(cells[:, :, 0, 0], colour_heat_map(np.sqrt(values)))
    np.testing.assert_array_equal(cells[:, :, -1, -1], colour_heat_map(np.sqrt(values)))


def test_values_are_written_except_for_zero_and_nan():
    values = np.array([[0.5, 0.0, np.nan], [0.001, 1.0, 0.04], [np.nan] * 3])
    cells = crop_cells(render_annotated_heat_map(values, "abc"), 3, 36)
    has_text = [[len(np.unique(cell.reshape(-1, 3), axis=0)) > 1 for cell in row] for row in cells]
    assert has_text == [[True, False, False], [True, True, True], [False] * 3]
    assert (cells[2] == PANEL_COLOUR).all()


def test_names_are_on_both_axes_and_the_title_is_above():
    values = np.zeros((2, 2))
    plain, named = (render_annotated_heat_map(values, names) for names in (["", ""], ["aeroplane", "tvmonitor"]))
    assert named.shape[0] > plain.shape[0] + 40
    assert named.shape[1] > plain.shape[1] + 40
    for sheet in (named, named.transpose(1, 0, 2)):
        start = sheet.shape[0] - MARGIN - 2 * 37 + GRID_LINE_WIDTH
        has_ink = (sheet[start:, :start] != PAPER_COLOUR).any(axis=(1, 2))
        assert has_ink[:36].any() and has_ink[37:73].any() and not has_ink[73:].any()
    titled = render_annotated_heat_map(values, ["a", "b"], title="A title that is wider than two cells")
    assert titled.shape[1] > render_annotated_heat_map(values, ["a", "b"]).shape[1]


@pytest.mark.parametrize(("count", "side"), [(1, 36), (30, 36), (31, 24), (101, 14), (301, 4)])
def test_cells_are_smaller_in_larger_tables(count, side):
    names = ["a rather long name of a class that has no end"] * count
    sheet = render_annotated_heat_map(np.full((count, count), 0.25), names)
    cells = crop_cells(sheet, count, side)
    assert (cells[:, :, 0, 0] == colour_heat_map(np.full((1, 1), 0.5))).all()
    assert sheet.shape[0] < 2 * MARGIN + 160 + count * (side + GRID_LINE_WIDTH)
    assert (cells[0, 0] != cells[0, 0, 0, 0]).any() == (side >= 24)


@pytest.mark.parametrize(("values", "names"), [
    (np.zeros((0, 0)), []), (np.zeros((2, 3)), "ab"), (np.zeros((2, 2)), "a")])
def test_sizes_that_do_not_fit_are_rejected(values, names):
    with pytest.raises(ValueError, match="a table of shape"):
        render_annotated_heat_map(values, names)
