"""Show pictures in a terminal: as pixels, or as characters with the titles of panels as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.data.figures import PANELS_PER_LINE, Panel
from stages.data.terminal_graphics import encode_kitty, encode_sixel, fit_to_columns, render_half_blocks

_MIN_PANEL_COLUMNS = 18


def render_pictures(pictures: Sequence[np.ndarray], graphics: str, columns: int, *, colour: bool = True) -> str:
    """Render pictures (H, W, 3), one below the other, by "blocks", "kitty" or "sixel"; see `render_half_blocks`."""
    if graphics == "blocks":
        return "\n".join(render_half_blocks(picture, columns, colour=colour) for picture in pictures)
    encode = encode_kitty if graphics == "kitty" else encode_sixel
    return "\n".join(encode(fit_to_columns(picture, columns)) for picture in pictures)


def render_panels_as_text(panels: Sequence[Panel], columns: int, *, colour: bool = True) -> str:
    """Render panels of one photograph as half blocks, up to four side by side in `columns` characters, under titles."""
    per_line = max(1, min(PANELS_PER_LINE, len(panels), (columns + 1) // (_MIN_PANEL_COLUMNS + 1)))
    width = (columns - per_line + 1) // per_line
    lines = []
    for start in range(0, len(panels), per_line):
        group = panels[start:start + per_line]
        lines.append(" ".join(_fit_title(panel, width) for panel in group).rstrip())
        pictures = [render_half_blocks(panel.picture, width, colour=colour).split("\n") for panel in group]
        lines += [" ".join(row) for row in zip(*pictures, strict=True)]
    return "\n".join(lines)


def _fit_title(panel: Panel, width: int) -> str:
    """Return the title and value of a panel as `width` characters; control characters become question marks."""
    title = "".join(character if character.isprintable() else "?" for character in panel.title)
    room = max(1, width - len(panel.value) - bool(panel.value))
    short = title if len(title) <= room else title[:room - 1] + "\u2026"
    return f"{short} {panel.value}".ljust(width) if panel.value else short.ljust(width)
