"""Figures of one photograph: the photograph with its tags, one heat map per class with its score, and masks.

A figure consists of panels of one size, which wrap into lines. All sizes are pixels, images are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from stages.data.class_colours import class_colours
from stages.data.contact_sheets import (
    GAP,
    INK_COLOUR,
    MARGIN,
    PALE_INK_COLOUR,
    PANEL_COLOUR,
    PAPER_COLOUR,
    TEXT_FONT_SIZE,
    TEXT_LINE_HEIGHT,
    TITLE_FONT_SIZE,
    TITLE_LINE_HEIGHT,
    Colour,
    fit_text,
    load_font,
    measure_text,
    render_legend,
    wrap_text,
)
from stages.data.draw import overlay_mask
from stages.data.heat_maps import draw_colour_bar, overlay_heat_map
from stages.data.region_outlines import overlay_regions
from stages.kernels.resample import upsample

PANEL_SIDE = 320  # of one photograph
MAX_PAGE_SIDE = 2400
PANELS_PER_LINE = 4
_MIN_CELL_WIDTH = 140  # so that titles fit beside a narrow photograph
_BAR_HEIGHT = 10
_MAX_CAPTION_LINES = 4
_TICKS = ((0.0, "0", "la"), (0.5, "0.5", "ma"), (1.0, "1", "ra"))


@dataclass(frozen=True)
class Panel:
    """A picture (h, w, 3) with a title, a `value` to the right of it, and below it a colour `bar` or a `caption`."""

    picture: np.ndarray
    title: str
    value: str = ""
    caption: str = ""
    bar: np.ndarray | None = None


def draw_cam_figure(
    image: np.ndarray,
    maps: np.ndarray,
    class_ids: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray | None,
    class_names: Sequence[str],
    *,
    title: str = "photograph",
    caption: str = "",
    panel_side: int = PANEL_SIDE,
) -> np.ndarray:
    """Draw a photograph (H, W, 3) and a heat map for each of its CAMs as one figure, (height, width, 3) uint8.

    `maps` (K, h, w) in [0, 1] have any resolution and cover the whole image; `class_ids` (K,) are positions in
    `class_names`, of which position 0 is the background and is not drawn; `scores` (K,) in [0, 1] are None if unknown.
    The `title` is printed over the photograph, and the `caption` under it. No panel is wider or higher than
    `panel_side`. Raises ValueError if the numbers of maps, ids and scores differ.
    """
    ids = np.asarray(class_ids, dtype=np.int64)
    if len(maps) != len(ids) or (scores is not None and len(scores) != len(ids)):
        num_scores = "no" if scores is None else len(scores)
        raise ValueError(f"{len(maps)} maps, {len(ids)} class ids and {num_scores} scores do not fit together")
    small = resize_image(image, fit_size(image.shape[:2], panel_side))
    size = (small.shape[0], small.shape[1])
    resized = upsample(np.asarray(maps, dtype=np.float32), size, size) if len(ids) else np.zeros((0, *size))
    panels = [Panel(small, title, caption=caption), *build_heat_panels(small, resized, ids, scores, class_names)]
    return np.concatenate(render_figure(panels), axis=0)


def fit_size(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return (height, width) of an image of `size` that is scaled so that its longer side is `side`."""
    scale = side / max(size[:2])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image (H, W, 3) to `size` (height, width)."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    is_smaller = size[0] < image.shape[0]
    resampling = Image.Resampling.LANCZOS if is_smaller else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((size[1], size[0]), resampling, reducing_gap=2.0 if is_smaller else None))


def format_tags(tags: Sequence[str] | None) -> str:
    """Return the line of text about the tags of a photograph; None means that they are unknown."""
    return "tags unknown" if tags is None else f"tags: {', '.join(tags) or 'none'}"


def build_photograph_panel(image: np.ndarray, tags: Sequence[str] | None, title: str = "photograph") -> Panel:
    """Return the panel of a photograph, with its tags below it."""
    return Panel(image, title, caption=format_tags(tags))


def build_heat_panels(image: np.ndarray, maps: np.ndarray, class_ids: np.ndarray,
                      scores: Sequence[float] | np.ndarray | None, class_names: Sequence[str],
                      run_title: str = "") -> list[Panel]:
    """Return a panel for each class with its heat map over the image, its name, its score and a colour bar.

    `maps` are (K, H, W) at the size of the image. A `run_title` is added to the names. The background has no panel.
    """
    panels = []
    for row, class_id in enumerate(class_ids):
        if class_id > 0:
            score = None if scores is None else float(scores[row])
            title = f"{run_title}: {class_names[class_id]}" if run_title else class_names[class_id]
            panels.append(Panel(overlay_heat_map(image, maps[row], score), title,
                                "" if score is None else f"{score:.2f}",
                                bar=draw_colour_bar(image.shape[1], _BAR_HEIGHT, score)))
    return panels


def build_mask_panel(image: np.ndarray, mask: np.ndarray, title: str) -> Panel:
    """Return the panel of a mask (H, W) over the image."""
    return Panel(overlay_mask(image, mask), title)


def build_region_panel(image: np.ndarray, labels: np.ndarray, title: str, caption: str) -> Panel:
    """Return the panel of regions without classes, `labels` (H, W), over the image."""
    return Panel(overlay_regions(image, labels), title, caption=caption)


def build_text_panel(text: str, size: tuple[int, int], title: str) -> Panel:
    """Return a panel of `size` (height, width) that says in words why there is no picture."""
    picture = Image.new("RGB", (size[1], size[0]), PANEL_COLOUR)
    draw, max_lines = ImageDraw.Draw(picture), max(1, size[0] // TEXT_LINE_HEIGHT)
    lines = wrap_text(text, TEXT_FONT_SIZE, size[1] - 2 * GAP, max_lines)
    top = (size[0] - len(lines) * TEXT_LINE_HEIGHT) // 2
    for index, line in enumerate(lines):
        draw.text((size[1] / 2, top + index * TEXT_LINE_HEIGHT), line, fill=PALE_INK_COLOUR,
                  font=load_font(TEXT_FONT_SIZE, line), anchor="ma")
    return Panel(np.asarray(picture), title)


def build_class_legend(class_ids: Sequence[int], class_names: Sequence[str]) -> list[tuple[str, Colour]]:
    """Return the legend (name, colour) of classes, in the order of their ids."""
    ids = sorted(set(class_ids))
    return [(class_names[class_id], (red, green, blue))
            for class_id, (red, green, blue) in zip(ids, class_colours(ids).tolist(), strict=True)]


def render_figure(panels: Sequence[Panel], *, heading: str = "",
                  legend: Sequence[tuple[str, Colour]] = ()) -> list[np.ndarray]:
    """Render panels in lines of about four, as pages (H, W, 3) uint8 of at most 2,400 pixels where that is possible.

    The `heading` is at the top of each page, the `legend` at the bottom of the last.
    """
    cell_width = max(_MIN_CELL_WIDTH, *(panel.picture.shape[1] for panel in panels))
    lines = _split_into_lines(panels, cell_width)
    width = 2 * MARGIN + len(lines[0]) * (cell_width + GAP) - GAP
    width = max(width, 2 * MARGIN + min(len(panels), 2) * (cell_width + GAP) - GAP)
    strips = [_render_line(line, cell_width, width) for line in lines]
    legend_strip = render_legend(legend, width)
    head = _render_heading(heading, width)
    pages, page, height = [], [head], len(head)
    for index, strip in enumerate(strips):
        needed = len(strip) + (len(legend_strip) if index == len(strips) - 1 else 0) + MARGIN
        if len(page) > 1 and height + needed > MAX_PAGE_SIDE:
            pages.append(page)
            page, height = [head], len(head)
        page.append(strip)
        height += len(strip)
    pages.append([*page, legend_strip])
    bottom = np.full((MARGIN - GAP, width, 3), PAPER_COLOUR, np.uint8)
    return [np.concatenate([*parts, bottom], axis=0) for parts in pages]


def _split_into_lines(panels: Sequence[Panel], cell_width: int) -> list[list[Panel]]:
    """Split panels into lines of equal length: up to four, or more where they would not fit on one page."""
    most = max(1, (MAX_PAGE_SIDE - 2 * MARGIN + GAP) // (cell_width + GAP))
    line_height = max(panel.picture.shape[0] for panel in panels) + TITLE_LINE_HEIGHT + 2 * TEXT_LINE_HEIGHT
    lines_per_page = max(1, MAX_PAGE_SIDE // line_height)
    longest = min(most, max(PANELS_PER_LINE, -(-len(panels) // lines_per_page)))
    per_line = -(-len(panels) // -(-len(panels) // longest))  # 3 + 2 rather than 4 + 1
    return [list(panels[start:start + per_line]) for start in range(0, len(panels), per_line)]


def _render_heading(heading: str, width: int) -> np.ndarray:
    strip = Image.new("RGB", (width, MARGIN - 4 + (TITLE_LINE_HEIGHT if heading else 0)), PAPER_COLOUR)
    if heading:
        fitted = fit_text(heading, TITLE_FONT_SIZE, width - 2 * MARGIN)
        ImageDraw.Draw(strip).text((MARGIN, MARGIN - 4), fitted, fill=PALE_INK_COLOUR,
                                   font=load_font(TITLE_FONT_SIZE, fitted))
    return np.asarray(strip)


def _render_line(panels: Sequence[Panel], cell_width: int, width: int) -> np.ndarray:
    """Render one line of panels: titles, pictures, and bars or captions."""
    picture_height = max(panel.picture.shape[0] for panel in panels)
    captions = [wrap_text(panel.caption, TEXT_FONT_SIZE, cell_width, _MAX_CAPTION_LINES) for panel in panels]
    foot = max(0, *(TEXT_LINE_HEIGHT * len(lines) for lines in captions),
               *(_BAR_HEIGHT + TEXT_LINE_HEIGHT if panel.bar is not None else 0 for panel in panels))
    strip = Image.new("RGB", (width, TITLE_LINE_HEIGHT + picture_height + (foot + 4 if foot else 0) + GAP),
                      PAPER_COLOUR)
    draw = ImageDraw.Draw(strip)
    for index, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        left = MARGIN + index * (cell_width + GAP)
        _draw_title(draw, panel, left, cell_width)
        bottom = TITLE_LINE_HEIGHT + panel.picture.shape[0]
        strip.paste(Image.fromarray(np.ascontiguousarray(panel.picture)), (left, TITLE_LINE_HEIGHT))
        if panel.bar is not None:
            _draw_bar(strip, draw, panel.bar, (left, bottom + 4))
        for number, text in enumerate(lines):
            draw.text((left, bottom + 2 + number * TEXT_LINE_HEIGHT), text, fill=INK_COLOUR,
                      font=load_font(TEXT_FONT_SIZE, text))
    return np.asarray(strip)


def _draw_title(draw: ImageDraw.ImageDraw, panel: Panel, left: int, width: int) -> None:
    """Draw the title of a panel, which is cut if necessary, and its value, which is not."""
    value_width = round(measure_text(f" {panel.value}", TITLE_FONT_SIZE)) if panel.value else 0
    title = fit_text(panel.title, TITLE_FONT_SIZE, width - value_width)
    draw.text((left, 4), title, fill=INK_COLOUR, font=load_font(TITLE_FONT_SIZE, title))
    if panel.value:
        draw.text((left + round(measure_text(f"{title} ", TITLE_FONT_SIZE)), 4), panel.value, fill=PALE_INK_COLOUR,
                  font=load_font(TITLE_FONT_SIZE))


def _draw_bar(strip: Image.Image, draw: ImageDraw.ImageDraw, bar: np.ndarray, corner: tuple[int, int]) -> None:
    left, top = corner
    strip.paste(Image.fromarray(np.ascontiguousarray(bar)), corner)
    for position, text, anchor in _TICKS:
        x = left + round(position * (bar.shape[1] - 1))
        draw.line((x, top + bar.shape[0], x, top + bar.shape[0] + 2), fill=PALE_INK_COLOUR)
        draw.text((x, top + bar.shape[0] + 3), text, fill=PALE_INK_COLOUR, font=load_font(TEXT_FONT_SIZE),
                  anchor=anchor)
