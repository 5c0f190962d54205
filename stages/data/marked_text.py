"""Text whose words are marked by colours: a ground that is as strong as a share, or a line below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.data.sheet import GAP, INK, PANEL, TEXT_LINE, TEXT_SIZE, Colour, fit_text


@dataclass(frozen=True)
class Mark:
    """A word, the colour of its ground with the `share` in [0, 1] that this has, and the colour of its line."""

    word: str
    fill: Colour | None = None
    share: float = 0.0
    line: Colour | None = None


def marked_text(paragraphs: Sequence[Sequence[Mark]], size: tuple[int, int]) -> np.ndarray:
    """Return paragraphs of words on a panel of at least `size` (height, width), as (H, W, 3) uint8.

    Lines are broken at the width; a panel of more lines than fit is higher.
    """
    placed, y = [], GAP
    for words in paragraphs:
        x = GAP
        for mark in words:
            text = fit_text(mark.word, TEXT_SIZE, size[1] - 2 * GAP)
            width = round(_font().getlength(text + " "))
            if x > GAP and x + width > size[1] - GAP:
                x, y = GAP, y + TEXT_LINE
            placed.append((x, y, width, text, mark))
            x += width
        y += TEXT_LINE + GAP
    panel = Image.new("RGB", (size[1], max(size[0], y)), PANEL)
    draw = ImageDraw.Draw(panel)
    for x, y, width, text, mark in placed:
        _draw(draw, (x, y), width, text, mark)
    return np.asarray(panel)


def _draw(draw: ImageDraw.ImageDraw, place: tuple[int, int], width: int, text: str, mark: Mark) -> None:
    left, top = place
    share = min(max(mark.share, 0.0), 1.0)
    ground = tuple(round(paper + share * (own - paper))
                   for paper, own in zip(PANEL, mark.fill or PANEL, strict=True))
    draw.rectangle((left - 1, top, left + width - 3, top + TEXT_LINE - 3), fill=ground)
    dark = 0.299 * ground[0] + 0.587 * ground[1] + 0.114 * ground[2] < 110
    draw.text((left, top), text, fill=PANEL if dark else INK, font=_font())
    if mark.line:
        draw.line((left, top + TEXT_LINE - 2, left + width - 4, top + TEXT_LINE - 2), fill=mark.line, width=2)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT_SIZE)
