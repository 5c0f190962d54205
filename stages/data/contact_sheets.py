"""Render contact sheets: rows of images under column titles, a title over each row, a legend of class colours."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.data.system_fonts import has_glyph, load_system_font

Colour = tuple[int, int, int]
Panel = np.ndarray | None
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER_COLOUR, PANEL_COLOUR = (252, 252, 250), (236, 236, 233)
INK_COLOUR, PALE_INK_COLOUR = (28, 28, 32), (120, 120, 126)
MARGIN, GAP = 16, 8
TITLE_FONT_SIZE, TEXT_FONT_SIZE = 15, 13
TITLE_LINE_HEIGHT, TEXT_LINE_HEIGHT = 26, 20
SWATCH_SIZE = 12
ELLIPSIS = "\u2026"


def render_contact_sheet(
    rows: Sequence[Sequence[Panel]],
    *,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    cell: tuple[int, int] = (160, 200),
    legend: Sequence[tuple[str, Colour]] = (),
) -> np.ndarray:
    """Render images in a grid, as (H, W, 3) uint8.

    Each image is (H, W, 3) or (H, W) uint8 of any size, scaled to fit its cell of `cell` (height, width) pixels, or
    None for an empty cell; rows may have different lengths. Column titles go at the top, row titles over their rows,
    the `legend` (name, colour) at the bottom on as many lines as it needs. Text that does not fit is cut with an
    ellipsis. Raises ValueError if there are no rows or a cell is smaller than 8 pixels.
    """
    num_columns = max((len(row) for row in rows), default=0)
    if not num_columns or min(cell) < 8:
        raise ValueError(f"can't draw {len(rows)} rows and {num_columns} columns with cells of {tuple(cell)} pixels")
    width = 2 * MARGIN + num_columns * cell[1] + (num_columns - 1) * GAP
    title_height = TEXT_LINE_HEIGHT if row_titles else 0
    top = MARGIN + (TITLE_LINE_HEIGHT if column_titles else 0)
    bottom = top + len(rows) * (title_height + cell[0] + GAP) - GAP
    legend_strip = render_legend(legend, width)
    sheet = Image.new("RGB", (width, bottom + len(legend_strip) + MARGIN), PAPER_COLOUR)
    draw = ImageDraw.Draw(sheet)
    _draw_column_titles(draw, column_titles[:num_columns], cell[1])
    for index, row in enumerate(rows):
        y = top + index * (title_height + cell[0] + GAP)
        title = row_titles[index] if index < len(row_titles) else ""
        _draw_text(draw, (MARGIN, y), title, TEXT_FONT_SIZE, width - 2 * MARGIN, PALE_INK_COLOUR)
        for column in range(num_columns):
            panel = row[column] if column < len(row) else None
            _paste_panel(sheet, panel, (MARGIN + column * (cell[1] + GAP), y + title_height), cell)
    if legend:
        sheet.paste(Image.fromarray(legend_strip), (0, bottom))
    return np.asarray(sheet)


def render_legend(legend: Sequence[tuple[str, Colour]], width: int) -> np.ndarray:
    """Render a legend of (name, colour) as a strip (H, width, 3) uint8 with a gap at its top; (0, width, 3) if empty.

    Entries are set one after the other on as many lines as they need, with the margins of a sheet on both sides.
    """
    layout = list(_lay_out_legend(legend, width))
    height = GAP + (layout[-1][1] + 1) * TEXT_LINE_HEIGHT if layout else 0
    if not height:
        return np.zeros((0, width, 3), np.uint8)
    strip = Image.new("RGB", (width, height), PAPER_COLOUR)
    _draw_legend(ImageDraw.Draw(strip), legend, layout, GAP + 2)
    return np.asarray(strip)


def load_font(size: int, text: str = "") -> Font:
    """Return the font that draws `text`, as `fit_text` returned it, at a size in pixels.

    It is Pillow's built-in font, or a font of the system if `text` has letters that this lacks.
    """
    built_in = _load_built_in_font(size)
    missing = _find_missing(text, built_in)
    return (load_system_font(missing, size) if missing else None) or built_in


@functools.cache
def _load_built_in_font(size: int) -> Font:
    return ImageFont.load_default(size=size)


@functools.lru_cache(maxsize=4096)
def _find_missing(text: str, font: Font) -> frozenset[str]:
    """Return the characters of a text that a font lacks, also without their accents."""
    if text.isascii():
        return frozenset()
    return frozenset(character for character in unicodedata.normalize("NFC", text)
                     if len(_replace_missing_glyph(character, font)) > 1 and character.isprintable())


def fit_text(text: str, size: int, width: float) -> str:
    """Fit `text` on one line of at most `width` pixels at font size `size`, cut with an ellipsis if necessary.

    The built-in font covers little more than ASCII. Letters lose accents that it lacks. A text with other letters is
    left for a font of the system that has them all; if there is none, they become escapes (\\u65e5) instead of empty
    boxes, as control characters always do.
    """
    drawable = make_drawable(text, size)
    font = load_font(size, drawable)
    if font.getlength(drawable) <= width:
        return drawable
    start = drawable
    while start and font.getlength(start.rstrip() + ELLIPSIS) > width:
        start = start[:-1]
    return start.rstrip() + ELLIPSIS


def wrap_text(text: str, size: int, width: float, max_lines: int) -> list[str]:
    """Wrap `text` to lines of at most `width` pixels at font size `size`; the last of `max_lines` is cut if needed."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < max_lines:
        taken = 1
        while taken < len(words) and measure_text(" ".join(words[:taken + 1]), size) <= width:
            taken += 1
        if len(lines) == max_lines - 1:
            taken = len(words)
        lines.append(fit_text(" ".join(words[:taken]), size, width))
        words = words[taken:]
    return lines


def measure_text(text: str, size: int) -> float:
    """Return the width of `text` in pixels, drawn as `fit_text` returns it."""
    drawable = make_drawable(text, size)
    return load_font(size, drawable).getlength(drawable)


def make_drawable(text: str, size: int) -> str:
    """Return a text as it can be drawn: with escapes for characters that no font has."""
    font = _load_built_in_font(size)
    missing = _find_missing(text, font)
    kept = missing if missing and load_system_font(missing, size) else frozenset()
    return "".join(character if character in kept else _replace_missing_glyph(character, font)
                   for character in unicodedata.normalize("NFC", text))


def describe_escapes(texts: Iterable[str]) -> str:
    """Return a note on the first of `texts` that is drawn with escapes because no font has its letters, "" if none."""
    for text in texts:
        missing = _find_missing(text, _load_built_in_font(TEXT_FONT_SIZE))
        if missing and not load_system_font(missing, TEXT_FONT_SIZE):
            return (f"No font of this system can draw {text!r}, so letters of such names are drawn as escapes "
                    f"({_replace_missing_glyph(min(missing), _load_built_in_font(TEXT_FONT_SIZE))}). Install a font "
                    "that has them, such as Noto Sans.")
    return ""


def _replace_missing_glyph(character: str, font: Font) -> str:
    """Return the character if the font has it, else its base letter, else an escape."""
    if character.isspace():
        return " "
    base = unicodedata.normalize("NFD", character)[0]
    for candidate in (character, base):
        if candidate.isprintable() and (candidate.isascii() or has_glyph(candidate, font)):
            return candidate
    return character.encode("unicode_escape").decode("ascii")


def _draw_text(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], text: str, size: int, width: float, colour: Colour
) -> None:
    if text:
        fitted = fit_text(text, size, width)
        draw.text(position, fitted, fill=colour, font=load_font(size, fitted))


def _draw_column_titles(draw: ImageDraw.ImageDraw, titles: Sequence[str], width: int) -> None:
    for column, title in enumerate(titles):
        fitted = fit_text(title, TITLE_FONT_SIZE, width)
        font = load_font(TITLE_FONT_SIZE, fitted)
        x = MARGIN + column * (width + GAP) + (width - font.getlength(fitted)) / 2
        draw.text((round(x), MARGIN - 2), fitted, fill=INK_COLOUR, font=font)


def _paste_panel(sheet: Image.Image, panel: Panel, position: tuple[int, int], cell: tuple[int, int]) -> None:
    """Paste a panel in the middle of its cell, as large as fits; draw a dash if there is none."""
    height, width = cell
    left, top = position
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=PANEL_COLOUR)
    if panel is None or not panel.size:
        x, y, half = left + width // 2, top + height // 2, min(cell) // 16
        draw.line((x - half, y, x + half, y), fill=PALE_INK_COLOUR, width=2)
        return
    image = Image.fromarray(np.ascontiguousarray(panel)).convert("RGB")
    scale = min(height / image.height, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BILINEAR
    sheet.paste(image.resize(size, resampling), (left + (width - size[0]) // 2, top + (height - size[1]) // 2))


def _lay_out_legend(legend: Sequence[tuple[str, Colour]], width: int) -> Iterator[tuple[int, int, str]]:
    """Yield (x, line, text) of each entry; an entry that does not fit on a line starts the next one."""
    x, line = MARGIN, 0
    for name, _ in legend:
        text = fit_text(name, TEXT_FONT_SIZE, width - 2 * MARGIN - SWATCH_SIZE - 6)
        entry_width = SWATCH_SIZE + 6 + round(load_font(TEXT_FONT_SIZE, text).getlength(text))
        if x > MARGIN and x + entry_width > width - MARGIN:
            x, line = MARGIN, line + 1
        yield x, line, text
        x += entry_width + 18


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    legend: Sequence[tuple[str, Colour]],
    layout: Sequence[tuple[int, int, str]],
    top: int,
) -> None:
    for (_, colour), (x, line, text) in zip(legend, layout, strict=True):
        y = top + line * TEXT_LINE_HEIGHT
        fill = tuple(int(value) for value in colour)
        draw.rectangle((x, y + 2, x + SWATCH_SIZE - 1, y + 1 + SWATCH_SIZE), fill=fill, outline=PALE_INK_COLOUR)
        draw.text((x + SWATCH_SIZE + 6, y), text, fill=INK_COLOUR, font=load_font(TEXT_FONT_SIZE, text))
