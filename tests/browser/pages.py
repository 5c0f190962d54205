"""Pages of `report` for the tests in a browser, and what the tests do with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from browser.chromium import Browser
from cli.runner import run_ok
from cli.test_report import build_mask, write_run
from stages.report.page import format_json
from stages.shards import Item, Shard, ShardContents, build_image_records, write_shard
from tiny_datasets import create_dataset

LONG_NAME = "averylongclassnamewithoutanyblanks" * 3
CLASSES = ("background", "</script><b>", f"שלום {LONG_NAME}")
IDS = [f"picture_{number:03d}" for number in range(60)]
# The smallest contrast of texts with their own background, of all elements with a text of their own that are visible.
CONTRAST = """(() => {
  const parse = text => {
    const numbers = (text.replace("srgb", "").match(/[\\d.]+/g) || []).map(Number);
    return text.startsWith("color(") ? numbers.map((v, i) => i < 3 ? 255 * v : v) : numbers;
  };
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const texts = [...document.querySelectorAll("body *")].filter(e => e.checkVisibility()
    && !e.closest("option, canvas, svg, .only-read, :disabled")
    && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  const contrasts = texts.map(e => {
    let box = e, colour = [0, 0, 0, 0];
    for (; box && colour.length === 4 && colour[3] === 0; box = box.parentElement) {
      colour = parse(getComputedStyle(box).backgroundColor);
    }
    const [a, b] = [luminance(colour), luminance(parse(getComputedStyle(e).color))].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  });
  return [Math.min(...contrasts), texts.length];
})()"""


def create_page(folder: Path) -> Path:
    """Create a page of two runs of masks over 60 images, with ground truth and unusual class names."""
    root = create_dataset(folder / "set", n=len(IDS), size=(36, 48)).root
    run_ok("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--masks",
           root / "SegmentationClass", "--class-names", root / "classes.txt", "-o", folder / "set.h5")
    shard = Shard(folder / "set.h5")
    items = list(shard.items())
    write_shard(folder / "named.h5", ShardContents("index", CLASSES, items, provenance=shard.provenance, root_attrs={
        "root": shard.attribute("root")}, image_records=build_image_records(items)))
    runs = [write_run(folder / f"masks{shift}", folder / "named.h5", [
        Item(item_id, {"mask": build_mask(5 + (shift * number) % 30, 1 + number % 2)[:36, :48]})
        for number, item_id in enumerate(IDS)]) for shift in (1, 7)]
    output = folder / "report.html"
    run_ok("report", *runs, "--draws", 20, "-o", output)
    return output


def repeat_images(html: str, times: int) -> str:
    """Return a page with all of its images several times, under new ids."""
    chunks = re.findall(r'<script type="application/json" class="chunk">.*?</script>', html, re.DOTALL)
    [data_text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    data = json.loads(data_text)
    assert len(data["images"]) == len(chunks) * data["perChunk"]
    images = [{**image, "id": f"{image['id']}_{number:02d}"} for number in range(times) for image in data["images"]]
    html = html.replace(data_text, format_json({**data, "images": images}))
    return html.replace("\n".join(chunks), "\n".join(chunks * times))


def open_page(browser: Browser, page: str, **options: object) -> None:
    browser.open(page, **options)
    browser.wait_for("document.querySelectorAll('#cards canvas').length > 0")


def text_of(browser: Browser, element: str) -> str:
    return browser.evaluate(f"document.getElementById({json.dumps(element)}).textContent")


def choose(browser: Browser, element: str, value: str) -> None:
    browser.evaluate(f"(() => {{ const e = document.getElementById({json.dumps(element)}); e.value = "
                     f"{json.dumps(value)}; for (const n of ['input', 'change']) e.dispatchEvent(new Event(n)); }})()")


def list_cards(browser: Browser) -> list[str]:
    return browser.evaluate("[...document.querySelectorAll('.card-id')].map(e => e.textContent)")


def read_picture(browser: Browser) -> str:
    """Return what the large picture shows."""
    return browser.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(() => "
                            "done(document.getElementById('picture').toDataURL())), 60))")


def open_first(browser: Browser) -> None:
    browser.evaluate("document.querySelector('.card').focus()")
    browser.press("Enter")
    browser.wait_for("document.getElementById('viewer').open && document.getElementById('picture').width > 200 && "
                     "document.getElementById('picture').getAttribute('aria-label')")
