"""The page of `report` in a real browser: without a network, by mouse and by keyboard, at any width, in both themes."""

from __future__ import annotations

import pytest

from browser.pages import CONTRAST, IDS, choose, list_cards, open_first, open_page, read_picture, text_of


def test_it_opens_and_makes_few_elements(opened):
    assert text_of(opened, "count") == "60 images"
    assert len(list_cards(opened)) <= 40
    opened.wait_for("document.querySelector('#cards canvas').width > 50")
    assert "</script><b>" in opened.evaluate("document.getElementById('class-filter').textContent")
    assert opened.evaluate("document.querySelectorAll('main b b, li > b').length") == 0
    assert "Show 20 more images" in text_of(opened, "more")
    opened.evaluate("document.getElementById('more').click()")
    assert opened.evaluate("document.querySelectorAll('.card').length") == 60
    assert opened.evaluate("document.activeElement === document.querySelectorAll('.card')[40]")
    assert opened.evaluate("document.getElementById('more').hidden")


def test_filters_change_the_cards_and_are_announced(opened):
    assert opened.evaluate("document.getElementById('count').getAttribute('aria-live')") == "polite"
    choose(opened, "tag-filter", "1")
    expected = int(text_of(opened, "tag-filter").split("</script><b> (")[1].split(")")[0])
    assert 0 < expected < 60
    assert text_of(opened, "count") == f"{expected} of 60 images"
    assert len(list_cards(opened)) == min(40, expected)
    choose(opened, "tag-filter", "")
    opened.press("/")
    opened.type("picture_007")
    opened.wait_for("document.querySelectorAll('.card').length === 1")
    assert list_cards(opened) == ["picture_007"]
    opened.type("nothing")
    opened.wait_for("document.querySelectorAll('.card').length === 0")
    assert "No image matches" in text_of(opened, "count")
    opened.press("Escape")
    assert text_of(opened, "count") == "60 images"


def test_orders(opened):
    data = opened.evaluate("JSON.parse(document.getElementById('data').textContent).images")
    for key, value in (("iou 0", lambda image: image["iou"]["0"]), ("iou 1", lambda image: image["iou"]["1"]),
                       ("dis 0", lambda image: -image["dis"][0]), ("id", lambda image: image["id"])):
        choose(opened, "sort", key)
        expected = [image["id"] for image in sorted(data, key=lambda image: (value(image), image["id"]))]
        assert list_cards(opened) == expected[:40]
    opened.evaluate("document.getElementById('reverse').click()")
    assert list_cards(opened) == IDS[:-41:-1]


def test_keys_move_open_and_close(opened):
    choose(opened, "sort", "id")
    opened.evaluate("document.querySelector('.card').focus()")
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowRight", "ArrowLeft"):
        opened.press(key)
    assert "picture_001" in opened.evaluate("document.activeElement.textContent")
    opened.press("Enter")
    opened.wait_for("document.getElementById('viewer').open")
    assert opened.evaluate("document.activeElement.id") == "viewer-title"
    opened.press("ArrowRight")
    assert (text_of(opened, "viewer-title"), text_of(opened, "viewer-position")) == ("picture_002", "3 of 60")
    opened.press("x")
    assert text_of(opened, "name-b") == "Ground truth"
    opened.press("?")
    opened.wait_for("document.getElementById('help').open")
    opened.press("Escape")
    opened.press("Escape")
    # The focus moves in an event after the dialog has closed.
    opened.wait_for("!document.getElementById('viewer').open && document.activeElement.matches('.card')")
    opened.wait_for("document.activeElement.textContent.includes('picture_002')")


def test_a_panel_opens_with_its_layer(opened):
    choose(opened, "view", "rows")
    opened.wait_for("document.querySelectorAll('.card canvas')[3].width > 20")
    opened.evaluate("document.querySelectorAll('.card canvas')[3].click()")
    opened.wait_for("document.getElementById('viewer').open")
    assert [text_of(opened, "name-a"), text_of(opened, "name-b")] == ["Ground truth", "masks7"]
    opened.press("1")
    assert text_of(opened, "name-b") == "Photograph"


def test_divider_opacity_zoom_and_classes_change_the_picture(opened):
    open_first(opened)
    pictures = [read_picture(opened)]

    def check_changed() -> None:
        picture = read_picture(opened)
        assert picture not in pictures
        pictures.append(picture)

    opened.press("[")
    check_changed()
    left, top, width, height = opened.evaluate("(b => [b.x, b.y, b.width, b.height])(document.getElementById('stage')"
                                               ".getBoundingClientRect())")
    opened.drag((left + width / 2, top + height / 2), (left + 0.7 * width, top + height / 2))
    check_changed()
    opened.evaluate("document.getElementById('divider').focus()")
    before = int(opened.evaluate("document.getElementById('divider').value"))
    opened.press("ArrowLeft")
    assert int(opened.evaluate("document.getElementById('divider').value")) == before - 1
    check_changed()
    choose(opened, "large-opacity", "20")
    check_changed()
    opened.evaluate("document.getElementById('zoom-in').click()")
    assert text_of(opened, "zoom-value") == "150 %"
    check_changed()
    chip = "document.querySelector('.chip')"
    opened.evaluate(f"{chip}.click()")
    assert opened.evaluate(f"{chip}.getAttribute('aria-pressed')") == "false"
    check_changed()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(browser, page, width):
    open_page(browser, page, width=width, height=700)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    choose(browser, "view", "rows")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    open_first(browser)
    assert browser.evaluate("document.getElementById('viewer').scrollWidth") <= width
    heights = browser.evaluate("[...document.querySelectorAll('#viewer button')].map(e => e.offsetHeight)")
    assert min(heights) >= 24


@pytest.mark.parametrize("is_dark", [False, True])
def test_texts_have_contrast_and_controls_have_names(browser, page, is_dark):
    open_page(browser, page, is_dark=is_dark)
    for _ in range(2):
        smallest, num_texts = browser.evaluate(CONTRAST)
        assert num_texts > 50
        assert smallest >= 4.5
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "slider", "combobox", "searchbox", "checkbox", "image", "link", "dialog"}
        nameless = [node["role"]["value"] for node in nodes if not node.get("ignored")
                    and node.get("role", {}).get("value") in roles and not node.get("name", {}).get("value")]
        assert nameless == []
        open_first(browser)


def test_the_theme_can_be_switched(opened):
    colours = []
    for _ in range(3):
        colours.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
        opened.evaluate("document.getElementById('theme').click()")
    assert colours[0] == colours[1] != colours[2]


def test_without_scripts_the_figures_are_there(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        document = browser.call("DOM.getDocument")["root"]["nodeId"]
        node = browser.call("DOM.querySelector", nodeId=document, selector="body")["nodeId"]
        text = browser.call("DOM.getOuterHTML", nodeId=node)["outerHTML"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "Allow scripts for this page" in text
    assert 'class="dot-rows"' in text
