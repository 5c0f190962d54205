"""Draw a square table of numbers as an image: heat-map colours, names on both axes, the value in every cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from stages.data.contact_sheets import (
    GAP,
    INK_COLOUR,
    MARGIN,
    PANEL_COLOUR,
    PAPER_COLOUR,
    TEXT_FONT_SIZE,
    TITLE_FONT_SIZE,
    TITLE_LINE_HEIGHT,
    fit_text,
    load_font,
)
from stages.data.heat_maps import colour_heat_map

GRID_LINE_WIDTH = 1  # pixels of paper between cells
MAX_NAME_WIDTH, MAX_TITLE_WIDTH = 150, 600
MIN_NAMED_CELL = 14  # pixels: rows and columns of smaller cells have no names
# (more than this many names, cell size in pixels, font size of the values; 0: too small to be readable).
CELL_SIZES = ((0, 36, TEXT_FONT_SIZE), (30, 24, 10), (100, 14, 0), (300, 4, 0))


def render_annotated_heat_map(values: np.ndarray, names: Sequence[str], *, title: str = "") -> np.ndarray:
    """Render values (C, C) in [0, 1] as an (H, W, 3) uint8 image whose rows and columns are labelled with `names`.

    Cells show the value in percent, or nothing where it is 0. Colours follow the square root of the value, since most
    values of a probability table are small. NaN leaves its cell empty. Values are not written for more than 100 names,
    and names are not written for more than 300. Raises ValueError if the sizes differ or `names` is empty.
    """
    if not names or values.shape != (len(names), len(names)):
        raise ValueError(f"a table of shape {values.shape} does not fit {len(names)} names")
    _, cell, font_size = next(row for row in reversed(CELL_SIZES) if len(names) > row[0])
    labels = [_render_name(name, max(10, font_size)) for name in names] if cell >= MIN_NAMED_CELL else []
    label_space = MARGIN + max((label.width for label in labels), default=0) + GAP
    corner = (label_space, label_space + (TITLE_LINE_HEIGHT if title else 0))
    sheet = _create_sheet(title, corner, len(names) * (cell + GRID_LINE_WIDTH) - GRID_LINE_WIDTH)
    _paste_names(sheet, labels, corner, cell)
    colours = np.where(np.isnan(values)[..., None], np.uint8(PANEL_COLOUR), colour_heat_map(np.sqrt(values)))
    sheet.paste(Image.fromarray(_draw_cells(colours, cell)), corner)
    if font_size:
        _write_values(sheet, values, colours, corner, cell, font_size)
    return np.asarray(sheet)


def _create_sheet(title: str, corner: tuple[int, int], side: int) -> Image.Image:
    """Create a blank sheet with a title, for a table of `side` pixels whose top left corner is at `corner`."""
    fitted_title = fit_text(title, TITLE_FONT_SIZE, max(side, MAX_TITLE_WIDTH))
    font = load_font(TITLE_FONT_SIZE, fitted_title)
    width = max(corner[0] + side, MARGIN + round(font.getlength(fitted_title))) + MARGIN
    sheet = Image.new("RGB", (width, corner[1] + side + MARGIN), PAPER_COLOUR)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 2), fitted_title, fill=INK_COLOUR, font=font)
    return sheet


def _paste_names(sheet: Image.Image, labels: Sequence[Image.Image], corner: tuple[int, int], cell: int) -> None:
    """Paste names to the left of their rows and, rotated by 90 degrees, above their columns."""
    for index, label in enumerate(labels):
        start = index * (cell + GRID_LINE_WIDTH) + (cell - label.height) // 2
        rotated = label.transpose(Image.Transpose.ROTATE_90)
        sheet.paste(label, (corner[0] - GAP - label.width, corner[1] + start))
        sheet.paste(rotated, (corner[0] + start, corner[1] - GAP - rotated.height))


def _render_name(name: str, font_size: int) -> Image.Image:
    """Render a name as a separate image, which can be rotated."""
    text = fit_text(name, font_size, MAX_NAME_WIDTH)
    font = load_font(font_size, text)
    left, _, right, _ = font.getbbox(text)
    label = Image.new("RGB", (max(1, round(right - left)), font_size + 4), PAPER_COLOUR)
    ImageDraw.Draw(label).text((-left, 0), text, fill=INK_COLOUR, font=font)
    return label


def _draw_cells(colours: np.ndarray, cell: int) -> np.ndarray:
    """Draw colours (C, C, 3) as squares of `cell` pixels separated by grid lines."""
    step = cell + GRID_LINE_WIDTH
    grid = colours.repeat(step, axis=0).repeat(step, axis=1)[:-GRID_LINE_WIDTH, :-GRID_LINE_WIDTH]
    is_line = np.arange(len(grid)) % step >= cell
    grid[is_line] = grid[:, is_line] = PAPER_COLOUR
    return grid


def _write_values(sheet: Image.Image, values: np.ndarray, colours: np.ndarray, corner: tuple[int, int], cell: int,
                  font_size: int) -> None:
    draw, font = ImageDraw.Draw(sheet), load_font(font_size)
    for row, column in np.argwhere(values > 0).tolist():
        x, y = (start + index * (cell + GRID_LINE_WIDTH) + cell / 2
                for start, index in zip(corner, (column, row), strict=True))
        ink = INK_COLOUR if int(colours[row, column].sum()) > 330 else PAPER_COLOUR
        draw.text((x, y), _format_percent(float(values[row, column])), fill=ink, font=font, anchor="mm")


def _format_percent(value: float) -> str:
    return "<1" if value < 0.005 else str(round(100 * value))
