"""Figures of one photograph, pages of many, and files of pages: sizes, places, legends and words."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from stages.data.class_colours import class_colours
from stages.data.contact_pages import Block, fit_panel_side, render_contact_pages
from stages.data.contact_sheets import MARGIN, PAPER_COLOUR, fit_text, measure_text, wrap_text
from stages.data.figures import (
    MAX_PAGE_SIDE,
    Panel,
    build_class_legend,
    build_heat_panels,
    build_photograph_panel,
    build_text_panel,
    draw_cam_figure,
    fit_size,
    format_tags,
    render_figure,
)
from stages.data.heat_maps import overlay_heat_map
from stages.data.image_size import resize_labels
from stages.data.picture_files import encode_pictures

NAMES = ("background", "cat", "dog", "kůň")


def fill(height: int, width: int, colour: tuple[int, int, int] = (250, 3, 5)) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def find_boxes(page: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((page == colour).all(axis=2))
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


def test_a_cam_figure_has_the_photograph_and_one_heat_map_per_class():
    image = fill(60, 90, (90, 120, 60))
    maps = np.zeros((3, 4, 6), np.float32)
    maps[1, :2, :3], maps[2, 2:, 3:] = 1, 0.8
    figure = draw_cam_figure(image, maps, [0, 1, 3], [0, 0.93, 0.02], NAMES, caption="cat", panel_side=180)
    without_background = draw_cam_figure(image, maps[1:], [1, 3], [0.93, 0.02], NAMES, caption="cat", panel_side=180)
    assert np.array_equal(figure, without_background), "the background is not drawn"
    assert figure.shape[1] == 2 * MARGIN + 3 * 180 + 2 * 8
    left = MARGIN + 188
    top = find_boxes(figure, (90, 120, 60))[0]
    heat = figure[top:top + 120, left:left + 180].astype(int)
    assert heat[20, 30].argmax() == 0 and heat[20, 30].sum() > 400, "the hot corner is yellow"
    assert np.ptp(heat[100, 150]) == 0 and heat[100, 150].sum() < 240, "the cold corner is dark grey"
    faint = figure[top:top + 120, left + 188:left + 368].astype(int)
    assert 10 < np.abs(faint[100, 150] - faint[20, 30]).sum() < 0.5 * np.abs(heat[20, 30] - heat[100, 150]).sum()


def test_a_cam_figure_of_maps_at_full_size_equals_the_overlay():
    image = np.random.default_rng(0).integers(0, 256, (40, 200, 3), dtype=np.uint8)
    maps = np.random.default_rng(1).random((1, 40, 200), dtype=np.float32)
    figure = draw_cam_figure(image, maps, [2], None, NAMES, panel_side=200)
    expected = overlay_heat_map(image, maps[0])
    windows = np.lib.stride_tricks.sliding_window_view(figure[:, MARGIN + 208:MARGIN + 408], (40, 200, 3))
    assert (windows.reshape(-1, *expected.shape) == expected).all(axis=(1, 2, 3)).any()


def test_tags_and_unknown_tags_change_the_figure():
    image, maps = fill(50, 50), np.zeros((0, 4, 4), np.float32)
    figures = [draw_cam_figure(image, maps, [], None, NAMES, caption=format_tags(tags)) for tags in (None, [], ["cat"])]
    assert len({figure.tobytes() for figure in figures}) == 3
    assert [format_tags(tags) for tags in (None, [], ["cow", "grass"])] == ["tags unknown", "tags: none",
                                                                            "tags: cow, grass"]


@pytest.mark.parametrize(("ids", "scores"), [([1], None), ([1, 2], [0.5])])
def test_maps_that_do_not_fit_are_rejected(ids, scores):
    with pytest.raises(ValueError, match="do not fit together"):
        draw_cam_figure(fill(20, 20), np.zeros((2, 4, 4)), ids, scores, NAMES)


def test_heat_panels_are_titled_with_class_score_and_run():
    image, maps = fill(20, 30), np.zeros((2, 20, 30), np.float32)
    panels = build_heat_panels(image, maps, np.array([1, 3]), [0.926, 0.004], NAMES)
    assert [(panel.title, panel.value) for panel in panels] == [("cat", "0.93"), ("kůň", "0.00")]
    assert all(panel.bar is not None and panel.bar.shape == (10, 30, 3) for panel in panels)
    unscored = build_heat_panels(image, maps, np.array([0, 3]), None, NAMES, "refined")
    assert [(panel.title, panel.value) for panel in unscored] == [("refined: kůň", "")]


@pytest.mark.parametrize(("count", "per_line"), [(1, 1), (4, 4), (5, 3), (6, 3), (9, 3), (12, 4)])
def test_panels_wrap_into_lines(count, per_line):
    colours = [(10 + 9 * index, 250, 3) for index in range(count)]
    page, = render_figure([Panel(fill(100, 200, colour), str(colour[0])) for colour in colours])
    boxes = [find_boxes(page, colour) for colour in colours]
    assert len({box[0] for box in boxes}) == -(-count // per_line)
    assert [box[1] for box in boxes] == [MARGIN + index % per_line * 208 for index in range(count)]
    assert all((box[2] - box[0], box[3] - box[1]) == (100, 200) for box in boxes)
    assert (page[:, -MARGIN:] == PAPER_COLOUR).all()


def test_figures_of_many_classes_have_pages_of_bounded_size():
    pages = render_figure([Panel(fill(320, 320), f"class {index}") for index in range(81)], heading="photo",
                          legend=[("cat", (1, 250, 3))])
    assert len(pages) > 1
    assert all(max(page.shape) <= MAX_PAGE_SIDE + 100 for page in pages)
    assert sum((page == (250, 3, 5)).all(axis=2).sum() for page in pages) == 81 * 320 * 320
    assert (pages[-1] == (1, 250, 3)).all(axis=2).any() and not (pages[0] == (1, 250, 3)).all(axis=2).any()


def test_the_value_stays_when_the_title_is_cut():
    name = "a very long name of a class that does not fit over its panel"
    short, long = (render_figure([Panel(fill(150, 150), name, value)])[0] for value in ("", "0.93"))
    assert short.shape == long.shape
    assert (short != long).any()
    bare, = render_figure([Panel(fill(150, 150), "x")])
    assert not (bare != long)[60:, :].any(), "only the title differs"


def test_words_tell_why_there_is_no_picture():
    panel = build_text_panel("failed: the image is damaged and can't be read at all", (60, 120), "masks")
    assert panel.picture.shape == (60, 120, 3)
    assert np.ptp(panel.picture) > 50
    assert len(wrap_text("one two three " * 9, 13, 60, 3)) == 3


@pytest.mark.parametrize("width", [50, 90, 200])
def test_wrapped_text_fits_its_width_and_loses_nothing_if_there_is_room(width):
    text = "tags: cow, grass, sheep, a tree, kůň, 日本"
    lines = wrap_text(text, 13, width, 99)
    assert " ".join(lines) == fit_text(text, 13, 9999) or width == 50
    assert all(measure_text(line, 13) <= width for line in lines)


def test_the_legend_has_the_colours_of_the_classes():
    legend = build_class_legend([3, 1, 3], NAMES)
    assert [name for name, _ in legend] == ["cat", "kůň"]
    assert [colour for _, colour in legend] == [tuple(colour) for colour in class_colours([1, 3]).tolist()]


def test_masks_are_resized_by_their_centres():
    mask = np.arange(6, dtype=np.uint8).repeat(4)[None].repeat(8, axis=0)
    assert resize_labels(mask, (2, 6)).tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert np.array_equal(resize_labels(mask, mask.shape), mask)
    assert fit_size((300, 400), 240) == (180, 240) and fit_size((5000, 10), 100) == (100, 1)


@pytest.mark.parametrize(("count", "panels"), [(2, 4), (12, 4), (40, 4), (40, 1), (6, 1), (7, 9), (100, 3)])
def test_many_photographs_become_pages_of_bounded_size(count, panels):
    side = fit_panel_side(240, panels)
    blocks = [Block(f"photo {index}", [Panel(fill(side * 3 // 4, side), "run")] * panels, (1 + index % 3,))
              for index in range(count)]
    pages = render_contact_pages(blocks, NAMES)
    assert all(max(page.shape) <= MAX_PAGE_SIDE for page in pages)
    drawn = sum((page == (250, 3, 5)).all(axis=2).sum() for page in pages)
    assert drawn == count * panels * side * (side * 3 // 4), "every panel is drawn once"
    assert all(page.shape[0] <= 2.5 * page.shape[1] for page in pages)


def test_each_page_has_a_legend_of_its_own_classes():
    blocks = [Block(str(index), [Panel(fill(500, 500), "run")], (1 if index < 16 else 2,)) for index in range(32)]
    first, *_, last = render_contact_pages(blocks, NAMES)
    for page, class_id, other in ((first, 1, 2), (last, 2, 1)):
        assert (page == class_colours([class_id])[0]).all(axis=2).any()
        assert not (page == class_colours([other])[0]).all(axis=2).any()


def test_the_suffix_decides_about_the_file():
    pages = [fill(50, 80), fill(60, 70, (5, 90, 200))]
    for suffix, file_format, count in ((".png", "PNG", 2), (".JPG", "JPEG", 2), (".jpeg", "JPEG", 2), (".pdf", "", 1)):
        files = encode_pictures(pages, suffix)
        assert len(files) == count and files == encode_pictures(pages, suffix), "equal pictures give equal bytes"
        if file_format:
            for page, data in zip(pages, files, strict=True):
                with Image.open(io.BytesIO(data)) as picture:
                    assert picture.format == file_format
                    assert np.abs(np.asarray(picture, int) - page).max() <= 3
    pdf, = encode_pictures(pages, ".pdf")
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) == 2
    with pytest.raises(ValueError, match=r"\.gif"):
        encode_pictures(pages, ".gif")


def test_a_photograph_panel_says_its_tags():
    assert build_photograph_panel(fill(9, 9), ["cat"]).caption == "tags: cat"
