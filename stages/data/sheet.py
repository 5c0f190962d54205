"""Contact sheets: rows of pictures under column titles, a caption over each row, a legend of class colours."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Picture = np.ndarray | None
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, PANEL = (252, 252, 250), (236, 236, 233)
INK, PALE_INK = (28, 28, 32), (120, 120, 126)
MARGIN, GAP = 16, 8
TITLE_SIZE, TEXT_SIZE = 15, 13
TITLE_LINE, TEXT_LINE = 26, 20
SWATCH = 12
ELLIPSIS = "\u2026"


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell: tuple[int, int] = (160, 200),
    legend: Sequence[tuple[str, Colour]] = (),
) -> np.ndarray:
    """Return the pictures in a grid, as (H, W, 3) uint8.

    Each picture is (H, W, 3) or (H, W) uint8 of any size, scaled to fit its cell of `cell` (height, width)
    pixels, or None for an empty cell; rows may be of unequal length. Column titles stand on top, a row's title
    over its row, `legend` (name, colour) at the bottom over as many lines as it needs. Text that does not fit
    ends in an ellipsis. Raises ValueError when there is no row or a cell is under 8 pixels.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns or min(cell) < 8:
        raise ValueError(f"a sheet of {len(rows)} rows and {columns} columns with cells of {tuple(cell)} pixels")
    width = 2 * MARGIN + columns * cell[1] + (columns - 1) * GAP
    keys = list(_legend_places(legend, width))
    caption = TEXT_LINE if row_titles else 0
    top = MARGIN + (TITLE_LINE if column_titles else 0)
    bottom = top + len(rows) * (caption + cell[0] + GAP) - GAP
    lines = keys[-1][1] + 1 if keys else 0
    sheet = Image.new("RGB", (width, bottom + (GAP + lines * TEXT_LINE if lines else 0) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_titles(draw, column_titles[:columns], cell[1])
    for number, row in enumerate(rows):
        y = top + number * (caption + cell[0] + GAP)
        title = row_titles[number] if number < len(row_titles) else ""
        _write(draw, (MARGIN, y), title, TEXT_SIZE, width - 2 * MARGIN, PALE_INK)
        for column in range(columns):
            picture = row[column] if column < len(row) else None
            _paste(sheet, picture, (MARGIN + column * (cell[1] + GAP), y + caption), cell)
    _draw_legend(draw, legend, keys, bottom + GAP + 2)
    return np.asarray(sheet)


def fit_text(text: str, size: int, width: float) -> str:
    """Return `text` in one line of at most `width` pixels at this font size, cut with an ellipsis if need be.

    The built-in font has hardly more than ASCII: letters with accents lose them, all else that it lacks, and
    control characters, become escapes (\\u65e5) instead of empty boxes.
    """
    font = ImageFont.load_default(size=size)
    whole = "".join(_drawable(character, font) for character in unicodedata.normalize("NFC", text))
    if font.getlength(whole) <= width:
        return whole
    kept = whole
    while kept and font.getlength(kept.rstrip() + ELLIPSIS) > width:
        kept = kept[:-1]
    return kept.rstrip() + ELLIPSIS


def _drawable(character: str, font: Font) -> str:
    if character.isspace():
        return " "
    base = unicodedata.normalize("NFD", character)[0]
    for candidate in (character, base):
        if candidate.isprintable() and (candidate.isascii() or _has_glyph(candidate, font)):
            return candidate
    return character.encode("unicode_escape").decode("ascii")


def _has_glyph(character: str, font: Font) -> bool:
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, width: float, colour: Colour
) -> None:
    if text:
        draw.text(place, fit_text(text, size, width), fill=colour, font=ImageFont.load_default(size=size))


def _draw_titles(draw: ImageDraw.ImageDraw, titles: Sequence[str], width: int) -> None:
    font = ImageFont.load_default(size=TITLE_SIZE)
    for column, title in enumerate(titles):
        shown = fit_text(title, TITLE_SIZE, width)
        middle = MARGIN + column * (width + GAP) + (width - font.getlength(shown)) / 2
        draw.text((round(middle), MARGIN - 2), shown, fill=INK, font=font)


def _paste(sheet: Image.Image, picture: Picture, place: tuple[int, int], cell: tuple[int, int]) -> None:
    """Fill a cell with the picture in its middle, as large as fits; a dash where there is none."""
    height, width = cell
    left, top = place
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=PANEL)
    if picture is None or not picture.size:
        middle, half = (left + width // 2, top + height // 2), min(cell) // 16
        draw.line((middle[0] - half, middle[1], middle[0] + half, middle[1]), fill=PALE_INK, width=2)
        return
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    scale = min(height / image.height, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BILINEAR
    sheet.paste(image.resize(size, way), (left + (width - size[0]) // 2, top + (height - size[1]) // 2))


def _legend_places(legend: Sequence[tuple[str, Colour]], width: int) -> Iterator[tuple[int, int, str]]:
    """Yield (x, line, text) of each entry, a new line where the next does not fit."""
    font = ImageFont.load_default(size=TEXT_SIZE)
    x, line = MARGIN, 0
    for name, _ in legend:
        text = fit_text(name, TEXT_SIZE, width - 2 * MARGIN - SWATCH - 6)
        needed = SWATCH + 6 + round(font.getlength(text))
        if x > MARGIN and x + needed > width - MARGIN:
            x, line = MARGIN, line + 1
        yield x, line, text
        x += needed + 18


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    legend: Sequence[tuple[str, Colour]],
    places: Sequence[tuple[int, int, str]],
    top: int,
) -> None:
    font = ImageFont.load_default(size=TEXT_SIZE)
    for (_, colour), (x, line, text) in zip(legend, places, strict=True):
        y = top + line * TEXT_LINE
        filled = tuple(int(value) for value in colour)
        draw.rectangle((x, y + 2, x + SWATCH - 1, y + 1 + SWATCH), fill=filled, outline=PALE_INK)
        draw.text((x + SWATCH + 6, y), text, fill=INK, font=font)
