"""Contact sheets of many photographs as pages: one block of panels per photograph, several blocks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.data.contact_sheets import GAP, MARGIN, PAPER_COLOUR, TEXT_LINE_HEIGHT, render_contact_sheet, render_legend
from stages.data.figures import MAX_PAGE_SIDE, Panel, build_class_legend

_MAX_HEIGHT_RATIO = 2.0  # a page that would be higher than this times its width gets more blocks side by side
_MIN_SIDE = 32


@dataclass(frozen=True)
class Block:
    """The panels of one photograph, all of one size, the title over them, and the classes drawn in class colours."""

    title: str
    panels: Sequence[Panel]
    class_ids: tuple[int, ...] = ()


def fit_panel_side(side: int, num_panels: int) -> int:
    """Return the side of panels, at most `side`, of which `num_panels` fit side by side on a page."""
    return max(_MIN_SIDE, min(side, (MAX_PAGE_SIDE - 2 * MARGIN + GAP) // num_panels - GAP))


def render_contact_pages(blocks: Sequence[Block], class_names: Sequence[str]) -> list[np.ndarray]:
    """Render blocks as pages (H, W, 3) uint8 of at most 2,400 x 2,400 pixels, each with a legend of its own classes.

    All blocks have the same number of panels, whose titles are the titles of the columns.
    """
    cell = (max(panel.picture.shape[0] for block in blocks for panel in block.panels),
            max(panel.picture.shape[1] for block in blocks for panel in block.panels))
    num_columns, num_rows = _choose_grid(len(blocks), len(blocks[0].panels), cell)
    per_page = num_columns * num_rows
    return [_render_page(blocks[start:start + per_page], num_columns, cell, class_names)
            for start in range(0, len(blocks), per_page)]


def _choose_grid(num_blocks: int, num_panels: int, cell: tuple[int, int]) -> tuple[int, int]:
    """Return (blocks side by side, blocks one below the other) on a page."""
    block_width = 2 * MARGIN + num_panels * (cell[1] + GAP) - GAP
    block_height = cell[0] + GAP + TEXT_LINE_HEIGHT
    frame = 2 * MARGIN + 4 * TEXT_LINE_HEIGHT  # margins, titles and one or two lines of legend
    max_rows = max(1, (MAX_PAGE_SIDE - frame) // block_height)
    for num_columns in range(1, max(1, MAX_PAGE_SIDE // block_width) + 1):
        num_rows = -(-num_blocks // num_columns)
        height_limit = _MAX_HEIGHT_RATIO * num_columns * block_width
        if num_rows <= max_rows and (num_rows == 1 or frame + num_rows * block_height <= height_limit):
            break
    return num_columns, min(num_rows, max_rows)


def _render_page(blocks: Sequence[Block], num_columns: int, cell: tuple[int, int],
                 class_names: Sequence[str]) -> np.ndarray:
    """Render one page; blocks follow each other from top to bottom, then in the next column."""
    num_rows = -(-len(blocks) // num_columns)
    sheets = [render_contact_sheet([[panel.picture for panel in block.panels] for block in column],
                                   column_titles=[panel.title for panel in column[0].panels],
                                   row_titles=[block.title for block in column], cell=cell)
              for column in (blocks[start:start + num_rows] for start in range(0, len(blocks), num_rows))]
    height = max(len(sheet) for sheet in sheets) - MARGIN
    body = np.concatenate([_fit_height(sheet, height) for sheet in sheets], axis=1)
    legend = build_class_legend([class_id for block in blocks for class_id in block.class_ids], class_names)
    bottom = np.full((MARGIN, body.shape[1], 3), PAPER_COLOUR, np.uint8)
    return np.concatenate([body, render_legend(legend, body.shape[1]), bottom], axis=0)


def _fit_height(sheet: np.ndarray, height: int) -> np.ndarray:
    """Cut a sheet at `height`, or add paper below it."""
    padding = np.full((max(0, height - len(sheet)), sheet.shape[1], 3), PAPER_COLOUR, np.uint8)
    return np.concatenate([sheet[:height], padding], axis=0)
