"""Contact sheets: positions of images, titles and the legend."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import ImageFont

from stages.data import contact_sheets, system_fonts
from stages.data.contact_sheets import (
    GAP,
    INK_COLOUR,
    MARGIN,
    PANEL_COLOUR,
    PAPER_COLOUR,
    TEXT_LINE_HEIGHT,
    TITLE_LINE_HEIGHT,
    describe_escapes,
    fit_text,
    load_font,
    measure_text,
    render_contact_sheet,
    render_legend,
)

RED, BLUE = (200, 10, 10), (10, 10, 200)


def fill(height: int, width: int, colour: tuple[int, int, int] = RED) -> np.ndarray:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def find_box(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) of all pixels of a colour."""
    rows, columns = np.nonzero((sheet == colour).all(axis=2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_images_fill_a_grid() -> None:
    sheet = render_contact_sheet([[fill(40, 50), fill(40, 50, BLUE)]] * 3, cell=(40, 50))
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * MARGIN + 3 * 40 + 2 * GAP, 2 * MARGIN + 2 * 50 + GAP, 3)
    assert find_box(sheet, RED) == (MARGIN, MARGIN, MARGIN + 3 * 40 + 2 * GAP, MARGIN + 50)
    assert find_box(sheet, BLUE)[1] == MARGIN + 50 + GAP
    assert (sheet == RED).all(axis=2).sum() == 3 * 40 * 50


@pytest.mark.parametrize(
    ("size", "box"),
    [((10, 20), (15, 0, 45, 60)), ((300, 100), (0, 20, 60, 40)), ((60, 60), (0, 0, 60, 60)),
     ((1, 600), (29, 0, 30, 60))],
)
def test_images_of_any_size_are_letterboxed(size, box) -> None:
    sheet = render_contact_sheet([[fill(*size)]], cell=(60, 60))[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.abs(np.subtract(find_box(sheet, RED), box)).max() <= 1
    outside = (sheet != RED).any(axis=2)
    assert (sheet[outside] == PANEL_COLOUR).all()


def test_short_rows_missing_images_and_grey_images() -> None:
    grey = np.full((30, 30), 77, dtype=np.uint8)
    sheet = render_contact_sheet([[grey, fill(30, 30)], [None]], cell=(30, 30))
    assert (sheet[MARGIN : MARGIN + 30, MARGIN : MARGIN + 30] == 77).all()
    for left in (MARGIN, MARGIN + 30 + GAP):
        empty = sheet[MARGIN + 30 + GAP :][:30, left : left + 30]
        assert 0 < (empty != PANEL_COLOUR).any(axis=2).sum() < 60


def test_titles_are_over_columns_and_rows_within_the_sheet() -> None:
    rows = [[fill(30, 120), fill(30, 120)]] * 2
    long_title = "a very long name that goes on and on " * 5
    bare = render_contact_sheet(rows, cell=(30, 120))
    sheet = render_contact_sheet(rows, cell=(30, 120), column_titles=["image", long_title],
                                 row_titles=["one", "ž/日本 " + long_title])
    assert sheet.shape[0] == bare.shape[0] + TITLE_LINE_HEIGHT + 2 * TEXT_LINE_HEIGHT
    assert sheet.shape[1] == bare.shape[1]
    has_ink = (sheet != PAPER_COLOUR).any(axis=2)
    assert not has_ink[:, :MARGIN].any()
    assert not has_ink[:, -MARGIN:].any()
    title = has_ink[: MARGIN + TITLE_LINE_HEIGHT - 2]
    assert title[:, MARGIN : MARGIN + 120].any()
    assert title[:, MARGIN + 120 + GAP :].any()
    assert not title[:, MARGIN + 120 : MARGIN + 120 + GAP].any()
    for top in (MARGIN + TITLE_LINE_HEIGHT, MARGIN + TITLE_LINE_HEIGHT + TEXT_LINE_HEIGHT + 30 + GAP):
        assert has_ink[top : top + TEXT_LINE_HEIGHT].any()


def test_the_legend_wraps_and_shows_every_colour() -> None:
    legend = [(f"class number {index}", (index * 5 + 1, 250, 3)) for index in range(30)]
    rows = [[fill(30, 200)]]
    bare, sheet = (render_contact_sheet(rows, cell=(30, 200), legend=entries) for entries in ((), legend))
    lines = (sheet.shape[0] - bare.shape[0] - GAP) / TEXT_LINE_HEIGHT
    assert lines == 30  # one of these names fills more than half of the sheet
    for _, colour in legend:
        top, left, bottom, right = find_box(sheet, colour)
        assert (bottom - top, right - left) == (10, 10)
    assert not (sheet[:, -MARGIN:] != PAPER_COLOUR).any()


def test_several_legend_entries_share_a_line() -> None:
    sheet = render_contact_sheet([[fill(30, 400)]], cell=(30, 400), legend=[("cat", RED), ("dog", BLUE)])
    below = sheet[MARGIN + 30 :]
    cat, dog = find_box(below, RED), find_box(below, BLUE)
    assert (cat[0], cat[2]) == (dog[0], dog[2])
    assert cat[3] < dog[1]
    assert (below == INK_COLOUR).all(axis=2).any()


@pytest.mark.parametrize("width", [40, 77, 120, 121, 122, 123, 200])
def test_text_is_cut_with_an_ellipsis_at_the_width(width) -> None:
    font = ImageFont.load_default(size=13)
    text = "2008_000019-dog-and-many-more-words"
    cut = fit_text(text, 13, width)
    assert cut.endswith("\u2026")
    assert text.startswith(cut[:-1])
    assert font.getlength(cut) <= width < font.getlength(text[: len(cut)] + "\u2026")
    assert fit_text(text, 13, 1000) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("kůň", "kun"), ("e\u0301", "e"), ("日", "\\u65e5"), ("a\tb\nc", "a b c"), ("\x1b[0m", "\\x1b[0m"), ("", "")],
)
def test_characters_that_no_font_has_are_replaced(text, expected, monkeypatch) -> None:
    monkeypatch.setattr(contact_sheets, "load_system_font", lambda characters, size: None)
    assert fit_text(text, 13, 1000) == expected


@pytest.fixture
def system_font(monkeypatch) -> str:
    """Let the only font of the system be matplotlib's, which has Cyrillic and Greek; return its path."""
    path = pytest.importorskip("matplotlib").get_data_path() + "/fonts/ttf/DejaVuSans.ttf"
    monkeypatch.setattr(system_fonts.shutil, "which", lambda program: None)
    monkeypatch.setattr(system_fonts, "_FONT_FILES", (path,))
    for function in (system_fonts.find_font_file, system_fonts.load_system_font):
        function.cache_clear()
    yield path
    for function in (system_fonts.find_font_file, system_fonts.load_system_font):
        function.cache_clear()


def test_other_scripts_are_drawn_with_a_font_of_the_system(system_font) -> None:
    expected = ImageFont.truetype(system_font, 13)
    for text in ("кот", "γάτα 2"):
        assert fit_text(text, 13, 1000) == text
        assert load_font(13, text).path == system_font
        assert measure_text(text, 13) == expected.getlength(text)
    assert fit_text("кот日", 13, 1000) == "\\u043a\\u043e\\u0442\\u65e5", "no font has all of them"
    assert load_font(13, "cat").getlength("cat") == ImageFont.load_default(size=13).getlength("cat")
    cut = fit_text("кот и собака", 13, 50)
    assert cut.endswith("\u2026") and expected.getlength(cut) <= 50
    legends = [render_legend([(name, (200, 0, 0))], 200) for name in ("кот", "как", "日")]
    assert not any(np.array_equal(first, second) for first, second in combinations(legends, 2))


def test_only_letters_that_no_font_has_are_reported(system_font) -> None:
    assert describe_escapes(["cat", "кот", "kůň"]) == ""
    note = describe_escapes(["cat", "日本"])
    assert "'日本'" in note and "\\u65e5" in note and "Install a font" in note


def test_scripts_that_need_shaping_are_escaped_without_the_library_for_it(system_font, monkeypatch) -> None:
    monkeypatch.setattr(system_fonts.features, "check", lambda feature: False)
    assert fit_text("قط", 13, 1000) == "\\u0642\\u0637"
    assert fit_text("кот", 13, 1000) == "кот"


def test_empty_sheets_are_rejected() -> None:
    for rows in ([], [[]]):
        with pytest.raises(ValueError, match="0 columns"):
            render_contact_sheet(rows)
