"""The page of `report` with a thousand images, on paper, with fingers, without motion, and for names in any script."""

from __future__ import annotations

import base64

import pytest

from browser.pages import CONTRAST, IDS, choose, list_cards, open_first, open_page, repeat_images, text_of

NUM_DRAWN = "[...document.querySelectorAll('#cards canvas')].filter(e => e.width > 1).length"
NUM_ELEMENTS = "document.querySelectorAll('body :not(script)').length"
COUNT_DECODED = """const decode = window.createImageBitmap;
window.numDecoded = 0;
window.createImageBitmap = (...values) => { window.numDecoded++; return decode(...values); };"""
# Cards that are in view, or less than 400 pixels from it.
NUM_NEAR = """[...document.querySelectorAll('#cards canvas')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.bottom > -400 && box.top < innerHeight + 400;
}).length"""


def test_a_thousand_images_open_as_quickly_as_a_few(browser, page_file, tmp_path, capsys):
    large = tmp_path / "large.html"
    large.write_text(repeat_images(page_file.read_text(encoding="utf-8"), 17), encoding="utf-8")
    browser.problems.clear()
    counts = []
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=COUNT_DECODED)["identifier"]
    for file in (page_file, large):
        open_page(browser, file.as_uri())
        browser.wait_for(f"{NUM_DRAWN} === {NUM_NEAR}")
        with capsys.disabled():
            print(f"\n{text_of(browser, 'count')} in {browser.evaluate('Math.round(performance.now())')} ms")
        counts.append(browser.evaluate(f"[{NUM_ELEMENTS}, numDecoded, {NUM_DRAWN}]"))
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    # Of each picture in view, the photograph and the mask are decoded.
    assert counts[0] == counts[1]
    assert counts[0][1] <= 2 * counts[0][2] < 2 * 40
    assert text_of(browser, "count") == "1020 images"
    for _ in range(3):
        browser.evaluate("document.getElementById('more').click()")
    assert browser.evaluate("document.querySelectorAll('.card').length") == 160
    for end in ("document.body.scrollHeight", "0"):
        browser.evaluate(f"scrollTo({{ top: {end}, behavior: 'instant' }})")
        browser.wait_for(f"{NUM_DRAWN} === {NUM_NEAR}")
    choose(browser, "sort", "id")
    assert list_cards(browser)[:3] == [f"{IDS[0]}_{number:02d}" for number in range(3)]
    assert browser.problems == []


def test_the_class_filter_finds_images_with_the_class_in_any_layer(opened):
    images = opened.evaluate("JSON.parse(document.getElementById('data').textContent).images")
    for class_id in (1, 2):
        expected = [image["id"] for image in images if class_id in image["classes"]]
        choose(opened, "class-filter", str(class_id))
        assert text_of(opened, "count").startswith(f"{len(expected)} ")
        assert set(list_cards(opened)) <= set(expected)
    choose(opened, "tag-filter", "1")
    both = [image["id"] for image in images if 2 in image["classes"] and 1 in image["tags"]]
    assert sorted(list_cards(opened)) == sorted(both)[:40]


def test_wheel_and_two_fingers_zoom(opened):
    open_first(opened)
    x, y = opened.evaluate("(b => [b.x + b.width / 2, b.y + b.height / 2])(document.getElementById('stage')"
                           ".getBoundingClientRect())")
    opened.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    opened.wait_for("document.getElementById('zoom-value').textContent === '272 %'")
    opened.press("0")
    opened.wait_for("document.getElementById('zoom-value').textContent === '100 %'")
    opened.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    try:
        for kind, distance in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80)):
            opened.call("Input.dispatchTouchEvent", type=kind, touchPoints=[
                {"x": x - distance, "y": y, "id": 1}, {"x": x + distance, "y": y, "id": 2}])
        opened.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        opened.wait_for("document.getElementById('zoom-value').textContent === '200 %'")
    finally:
        opened.call("Emulation.setTouchEmulationEnabled", enabled=False)


def test_the_tab_key_skips_the_header_and_stays_in_the_dialog(opened):
    opened.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "skip"
    opened.press("Enter")
    opened.wait_for("document.activeElement.id === 'gallery'")
    open_first(opened)
    visited = set()
    for _ in range(40):
        opened.press("Tab")
        visited.add(opened.evaluate("document.activeElement.id"))
        assert opened.evaluate("document.activeElement === document.body "
                               "|| document.getElementById('viewer').contains(document.activeElement)")
    assert {"next", "layer-a", "layer-b", "divider", "large-opacity", "zoom-in"} <= visited


def test_names_in_another_direction_and_with_markup_are_texts(opened):
    open_first(opened)
    chips = opened.evaluate("[...document.querySelectorAll('.chip [dir=auto]')].map(e => [e.textContent, "
                            "getComputedStyle(e).direction])")
    names = opened.evaluate("JSON.parse(document.getElementById('data').textContent).classes.map(c => c.name)")
    assert {name for name, _ in chips} <= {*names, "ignored"}
    rows = opened.evaluate("[...document.querySelectorAll('#classes .name')].map(e => [e.textContent, "
                           "getComputedStyle(e).direction])")
    assert sorted(rows) == sorted([[names[0], "ltr"], ["</script><b>", "ltr"], [names[2], "rtl"]])


@pytest.mark.parametrize(("preference", "expected"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_nothing_moves_for_those_who_asked_for_less_motion(opened, preference, expected):
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": preference}])
    assert opened.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == expected
    assert opened.evaluate("document.getAnimations().length") == 0


def test_paper_has_dark_text_and_no_controls(opened, page):
    open_page(opened, page, is_dark=True)
    opened.wait_for(f"{NUM_DRAWN} === {NUM_NEAR}")
    for theme in ("system", "light", "dark"):
        opened.call("Emulation.setEmulatedMedia", media="print",
                    features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", theme
        assert opened.evaluate(CONTRAST)[0] >= 4.5
        for element in ("nav", "#controls", "#more", ".actions"):
            assert opened.evaluate(f"document.querySelector('{element}').checkVisibility()") is False
        frames = opened.evaluate("[...document.querySelectorAll('#cards canvas')].filter(e => e.checkVisibility()"
                                 ").length")
        assert frames == opened.evaluate(NUM_DRAWN) < len(list_cards(opened))
        assert base64.b64decode(opened.call("Page.printToPDF")["data"]).startswith(b"%PDF")
        opened.call("Emulation.setEmulatedMedia", media="", features=[])
        opened.evaluate("document.getElementById('theme').click()")
