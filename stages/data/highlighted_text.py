"""Render text whose words are highlighted with colours: a background of some opacity, or an underline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from stages.data.contact_sheets import (
    GAP,
    INK_COLOUR,
    PANEL_COLOUR,
    TEXT_FONT_SIZE,
    TEXT_LINE_HEIGHT,
    Colour,
    fit_text,
    load_font,
)


@dataclass(frozen=True)
class HighlightedWord:
    """A word, the colour `fill` of its background with opacity `share` in [0, 1], and the colour of its underline."""

    word: str
    fill: Colour | None = None
    share: float = 0.0
    line: Colour | None = None


def render_highlighted_text(paragraphs: Sequence[Sequence[HighlightedWord]], size: tuple[int, int]) -> np.ndarray:
    """Render paragraphs of words on a panel of at least `size` (height, width), as (H, W, 3) uint8.

    Lines are wrapped at the width; the panel grows in height if the lines do not fit.
    """
    layout, y = [], GAP
    for words in paragraphs:
        x = GAP
        for word in words:
            text = fit_text(word.word, TEXT_FONT_SIZE, size[1] - 2 * GAP)
            width = round(load_font(TEXT_FONT_SIZE, text).getlength(text + " "))
            if x > GAP and x + width > size[1] - GAP:
                x, y = GAP, y + TEXT_LINE_HEIGHT
            layout.append((x, y, width, text, word))
            x += width
        y += TEXT_LINE_HEIGHT + GAP
    panel = Image.new("RGB", (size[1], max(size[0], y)), PANEL_COLOUR)
    draw = ImageDraw.Draw(panel)
    for x, y, width, text, word in layout:
        _draw_word(draw, (x, y), width, text, word)
    return np.asarray(panel)


def _draw_word(draw: ImageDraw.ImageDraw, position: tuple[int, int], width: int, text: str,
               word: HighlightedWord) -> None:
    left, top = position
    opacity = min(max(word.share, 0.0), 1.0)
    background = tuple(round(paper + opacity * (fill - paper))
                       for paper, fill in zip(PANEL_COLOUR, word.fill or PANEL_COLOUR, strict=True))
    draw.rectangle((left - 1, top, left + width - 3, top + TEXT_LINE_HEIGHT - 3), fill=background)
    is_dark = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2] < 110
    draw.text((left, top), text, fill=PANEL_COLOUR if is_dark else INK_COLOUR, font=load_font(TEXT_FONT_SIZE, text))
    if word.line:
        y = top + TEXT_LINE_HEIGHT - 2
        draw.line((left, y, left + width - 4, y), fill=word.line, width=2)
