"""A square table of numbers as a picture: heat colours, names on both axes, the value in every cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.data.draw import heat
from stages.data.sheet import GAP, INK, MARGIN, PANEL, PAPER, TEXT_SIZE, TITLE_LINE, TITLE_SIZE, fit_text

LINE = 1  # pixels of paper between cells
LONGEST_NAME, LONGEST_TITLE = 150, 600
SMALLEST_NAMED = 14  # pixels of a cell
# Beyond so many names: pixels of a cell, and of its text (0: none would be readable).
SIZES = ((0, 36, TEXT_SIZE), (30, 24, 10), (100, 14, 0), (300, 4, 0))


def heat_table(values: np.ndarray, names: Sequence[str], *, title: str = "") -> np.ndarray:
    """Return values (C, C) in [0, 1] as a picture, (H, W, 3) uint8: row r and column c bear their names.

    Cells say the value in percent, and nothing where it is 0; their colours go by the square root, since most of
    the values of a probability table are small. A value that is no number leaves its cell empty. Beyond 100 names
    the values are left out, beyond 300 the names too. Raises ValueError when sizes differ or there is no name.
    """
    if not names or values.shape != (len(names), len(names)):
        raise ValueError(f"a table of shape {values.shape} for {len(names)} names")
    _, cell, size = next(one for one in reversed(SIZES) if len(names) > one[0])
    labels = [_label(name, max(10, size)) for name in names] if cell >= SMALLEST_NAMED else []
    room = MARGIN + max((label.width for label in labels), default=0) + GAP
    corner = (room, room + (TITLE_LINE if title else 0))
    sheet = _sheet(title, corner, len(names) * (cell + LINE) - LINE)
    _paste_names(sheet, labels, corner, cell)
    colours = np.where(np.isnan(values)[..., None], np.uint8(PANEL), heat(np.sqrt(values)))
    sheet.paste(Image.fromarray(_cells(colours, cell)), corner)
    if size:
        _write_values(sheet, values, colours, corner, cell, size)
    return np.asarray(sheet)


def _sheet(title: str, corner: tuple[int, int], side: int) -> Image.Image:
    """Return paper for a table of `side` pixels whose top left corner is at `corner`, with its title."""
    font = ImageFont.load_default(size=TITLE_SIZE)
    shown = fit_text(title, TITLE_SIZE, max(side, LONGEST_TITLE))
    width = max(corner[0] + side, MARGIN + round(font.getlength(shown))) + MARGIN
    sheet = Image.new("RGB", (width, corner[1] + side + MARGIN), PAPER)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 2), shown, fill=INK, font=font)
    return sheet


def _paste_names(sheet: Image.Image, labels: Sequence[Image.Image], corner: tuple[int, int], cell: int) -> None:
    """Put names to the left of their rows, and upright over their columns."""
    for place, label in enumerate(labels):
        start = place * (cell + LINE) + (cell - label.height) // 2
        upright = label.transpose(Image.Transpose.ROTATE_90)
        sheet.paste(label, (corner[0] - GAP - label.width, corner[1] + start))
        sheet.paste(upright, (corner[0] + start, corner[1] - GAP - upright.height))


def _label(name: str, size: int) -> Image.Image:
    """Return a name as a picture of its own, which can be turned."""
    font = ImageFont.load_default(size=size)
    text = fit_text(name, size, LONGEST_NAME)
    left, _, right, _ = font.getbbox(text)
    label = Image.new("RGB", (max(1, round(right - left)), size + 4), PAPER)
    ImageDraw.Draw(label).text((-left, 0), text, fill=INK, font=font)
    return label


def _cells(colours: np.ndarray, cell: int) -> np.ndarray:
    """Return colours (C, C, 3) as squares of `cell` pixels with lines between them."""
    step = cell + LINE
    picture = colours.repeat(step, axis=0).repeat(step, axis=1)[:-LINE, :-LINE]
    between = np.arange(len(picture)) % step >= cell
    picture[between] = picture[:, between] = PAPER
    return picture


def _write_values(sheet: Image.Image, values: np.ndarray, colours: np.ndarray, corner: tuple[int, int], cell: int,
                  size: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=size)
    for row, column in np.argwhere(values > 0).tolist():
        middle = [start + place * (cell + LINE) + cell / 2 for start, place in zip(corner, (column, row), strict=True)]
        ink = INK if int(colours[row, column].sum()) > 330 else PAPER
        draw.text((middle[0], middle[1]), _percent(float(values[row, column])), fill=ink, font=font, anchor="mm")


def _percent(value: float) -> str:
    return "<1" if value < 0.005 else str(round(100 * value))
