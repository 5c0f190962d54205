"""`report`: the page holds what the runs hold, for any subset of inputs, and nothing of the user's names is markup."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, copy_dataset, index_table, run, run_ok
from stages.shards import Item, Run, Shard, ShardContents, build_image_records, write_shard
from tiny_datasets import TinyDataset

SIZE = (48, 64)
NAMES = {"</script><b>", "<img src=x onerror=alert(1)>", "שלום", 'quote " \' & amp'}


class Page(HTMLParser):
    """The parsed page: the data of its scripts, its elements, and the text outside of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text, self.images = "", []
        self._script: dict[str, str | None] | None = None
        self._contents = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [str(values[name]) for name in ("src", "href") if name in values]
        if tag == "script":
            self._script, self._contents = values, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._script is not None:
            if self._script.get("class") == "chunk":
                self.images += json.loads(self._contents)
            elif self._script.get("id") == "data":
                self.data: dict[str, Any] = json.loads(self._contents)
            self._script = None

    def handle_data(self, text: str) -> None:
        if self._script is None:
            self.text += text
        else:
            self._contents += text

    @property
    def ids(self) -> list[str]:
        return [image["id"] for image in self.data["images"]]

    def read_layer(self, item_id: str, title: str) -> dict[str, Any]:
        """Return what the page holds of a layer of an image."""
        titles = [layer["title"] for layer in self.data["layers"]]
        return self.images[self.ids.index(item_id)]["l"][titles.index(title)]

    def read_scores(self) -> list[list[str]]:
        """Return the texts of the rows of the table of runs."""
        table = re.search(r'<table class="runs">.*?</table>', self.source, re.DOTALL)
        rows = re.findall(r"<tr>(.*?)</tr>", table[0], re.DOTALL) if table else []
        return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows[1:]]


def decode_grey(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def decode_mask(encoded: dict[str, Any]) -> np.ndarray:
    return np.array(encoded["c"])[decode_grey(encoded["d"])]


def write_report(tmp_path: Path, *words: object) -> Page:
    output = tmp_path / "new" / "report.html"
    assert run_ok("report", *words, "--draws", 50, "-f", "-o", output) == [str(output)]
    return Page(output)


def write_run(folder: Path, index: Path, items: list[Item], kind: str = "masks",
              classes: tuple[str, ...] = ()) -> Path:
    """Write a run of masks or CAMs without a background for an index, in one shard."""
    shard = Shard(index)
    folder.mkdir()
    write_shard(folder / f"{kind}-00000-of-00001.h5", ShardContents(
        kind, classes or shard.classes, items, index_digest=shard.digest, index_path=str(index),
        root_attrs={"background": "none"} if kind == "cams" else {}))
    return folder


def build_mask(column: int, class_id: int = 1, dtype: type = np.uint8) -> np.ndarray:
    """Return a mask whose columns from `column` on are of a class."""
    mask = np.zeros(SIZE, dtype)
    mask[:, column:] = class_id
    return mask


@pytest.fixture(scope="module")
def masks(maps, tmp_path_factory) -> Path:
    """Return pseudo masks with some ignored pixels. Tests must not change them."""
    folder = tmp_path_factory.mktemp("report") / "masks"
    run_ok("pseudo", maps, "--background", "two-thresholds:0.2,0.5", "-o", folder)
    return folder


@pytest.fixture(scope="module")
def plain_index(tiny_dataset: TinyDataset, tmp_path_factory) -> Path:
    """Return an index of the same images without ground truth."""
    output = tmp_path_factory.mktemp("plain") / "plain.h5"
    run_ok("index", "table", tiny_dataset.root / "labels.csv", "--images", tiny_dataset.root / "JPEGImages",
           "--class-names", tiny_dataset.root / "classes.txt", "-o", output)
    return output


def test_scores_are_those_of_eval(maps, masks, tiny_net, tmp_path):
    page = write_report(tmp_path, maps, masks, "--net", tiny_net)
    rows = page.read_scores()
    for row, path in zip(rows, (maps, masks), strict=True):
        result = json.loads("\n".join(run_ok("eval", path, "--json")))
        assert row[:2] == [path.name, f"{100 * result['miou']:.1f}"]
        low, high = map(float, row[2].split(" to "))
        assert low <= 100 * result["miou"] <= high
        if result["background"]:
            assert row[-1] == f"constant:{result['background']['value']:g}"
        per_class = re.search(r'<section id="classes".*?</section>', page.source, re.DOTALL)[0]
        assert all(f">{100 * value:.1f}</td>" in per_class for value in result["per_class"].values())
    for title in ("IoU of each class", "Background score", "Confused classes", "Classes that appear together",
                  "Training"):
        assert title in page.text


def test_layers_hold_what_the_runs_hold(maps, masks, tiny_index, tiny_dataset, tmp_path):
    page = write_report(tmp_path, maps, masks)
    assert page.ids == list(tiny_dataset.ids)
    assert [layer["kind"] for layer in page.data["layers"]] == ["truth", "cams", "masks", "masks"]
    for item_id in (tiny_dataset.ids[0], tiny_dataset.ids[2]):
        stored = Run([masks]).item(item_id).datasets["mask"].astype(int)
        assert np.array_equal(decode_mask(page.read_layer(item_id, "masks")), np.where(stored == 255, -1, stored))
        item = Run([maps]).item(item_id)
        encoded = page.read_layer(item_id, "cams")
        for class_id, score, png in zip(encoded["c"], encoded["s"], encoded["d"], strict=True):
            row = item.datasets["class_ids"].tolist().index(class_id)
            values = item.datasets["cam"][row].astype(np.float32)
            values = values / 255 if item.datasets["cam"].dtype == np.uint8 else values
            assert np.abs(decode_grey(png) / 255 - values).max() <= 0.5 / 255 + 1e-6
            assert score == pytest.approx(item.datasets["scores"][row], abs=6e-4)
        assert encoded["k"] == pytest.approx(np.array(item.attrs["covers"]) / SIZE, abs=1e-4)
    tags = [[page.data["tags"][tag] for tag in image["tags"]] for image in page.data["images"]]
    assert tags == [[tiny_dataset.classes[class_id] for class_id in labels] for labels in tiny_dataset.labels]


def test_values_of_an_image_come_from_its_pixels(tiny_index, tmp_path):
    """Two masks that differ in 8 of 64 columns: IoU 48/64 of the background and 8/16 of the class, 48 + 8 columns."""
    first = write_run(tmp_path / "first", tiny_index, [Item("picture_000", {"mask": build_mask(48)})])
    second = write_run(tmp_path / "second", tiny_index, [Item("picture_000", {"mask": build_mask(56)})])
    image = write_report(tmp_path, first, second).data["images"][0]
    assert image["dis"] == [pytest.approx(1 - (48 / 56 + 8 / 16) / 2, abs=1e-4)]
    truth = write_run(tmp_path / "truth", tiny_index, [Item("picture_000", {"mask": build_mask(56)})])
    run_ok("export", "png", truth, "-o", tmp_path / "png")
    page = write_report(tmp_path, first, "--truth", tmp_path / "png")
    assert page.data["images"][0]["iou"] == {"0": pytest.approx((48 / 56 + 8 / 16) / 2, abs=1e-4)}


def test_the_page_needs_nothing_else(maps, masks, tmp_path):
    page = write_report(tmp_path, maps, masks)
    assert all(link.startswith("#") for link in page.links)
    assert {"link", "iframe", "img", "object"}.isdisjoint(page.tags)
    assert "default-src 'none'" in page.source
    assert not re.search(r"url\((?!data:)|@import|fetch\(|XMLHttpRequest|https?://", page.source)
    assert str(tmp_path) not in page.source


@pytest.mark.parametrize("inputs", [("plain",), ("index",), ("maps",), ("masks",), ("masks", "maps")], ids="+".join)
def test_any_subset_of_inputs_makes_a_page(inputs, plain_index, tiny_index, tiny_net, maps, masks, tmp_path):
    paths = {"plain": plain_index, "index": tiny_index, "maps": maps, "masks": masks}
    truth = () if inputs[0] in ("plain", "index") else ("--index", plain_index)
    page = write_report(tmp_path, *(paths[name] for name in inputs), *truth)
    has_truth = inputs == ("index",)
    assert any(layer["kind"] == "truth" for layer in page.data["layers"]) == has_truth
    assert not page.data["scored"]
    assert len(page.data["pairs"]) == 0  # CAMs without a background are no masks
    assert page.data["sort"] == "id"
    assert len(page.images) == 12
    if inputs == ("masks", "maps"):
        page = write_report(tmp_path, masks, maps, *truth, "--background", "constant:0.3", "--sort", "disagreement")
        assert page.data["pairs"] == [[0, 1]]
        assert page.data["sort"] == "disagreement"
        assert "mIoU" not in page.text


def test_images_that_not_all_runs_have_are_left_out(tiny_index, masks, tmp_path):
    few = write_run(tmp_path / "few", tiny_index, [Item(f"picture_00{number}", {"mask": build_mask(9)})
                                                   for number in (1, 3, 4)])
    output = tmp_path / "report.html"
    done = run("report", masks, few, "-o", output)
    assert done.code == 0
    assert "Left out 9 of the 12 images of masks, which are not in all runs." in done.err
    page = Page(output)
    assert page.ids == ["picture_001", "picture_003", "picture_004"]
    assert "9 of the 12 images of masks are left out" in page.text
    other = write_run(tmp_path / "other", tiny_index, [Item("picture_000", {"mask": build_mask(9)})])
    check_error(run("report", few, other, "-o", tmp_path / "none.html"), 65, "no image is in all of few, other")
    assert not (tmp_path / "none.html").exists()


def test_other_images_under_the_same_ids_are_rejected(tiny_dataset, masks, maps, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "changed")
    Image.new("RGB", SIZE[::-1]).save(root / "JPEGImages" / "picture_003.jpg")
    assert index_table(root, tmp_path / "changed.h5").code == 0
    check_error(run("report", tmp_path / "changed.h5", masks, "-o", tmp_path / "r.html"), 65, "picture_003")


def test_names_of_the_user_are_never_markup(tiny_index, tmp_path):
    """An index of another program may have any class names and ids."""
    index, shard, long_id = tmp_path / "names.h5", Shard(tiny_index), "x" * 180 + "<i>"
    items = [replace(item, id=long_id if number == 3 else item.id) for number, item in enumerate(shard.items())]
    classes = ("background", *sorted(NAMES))
    write_shard(index, ShardContents("index", classes, items, provenance=shard.provenance, root_attrs={
        "root": str(shard.path.parent / shard.attribute("root"))}, image_records=build_image_records(items)))
    items = [Item(item.id, {"mask": build_mask(9, 1 + position % 4)}) for position, item in enumerate(items)]
    masks = [write_run(tmp_path / f"<u>masks{number}", index, items) for number in (1, 2)]
    page = write_report(tmp_path, *masks, "--title", "<s>&amp;")
    assert {entry["name"] for entry in page.data["classes"]} >= NAMES
    assert long_id in page.ids
    assert page.data["runs"] == ["<u>masks1", "<u>masks2"]
    assert {"b", "i", "s", "u", "img"}.isdisjoint(page.tags)
    assert "<s>&amp;" in page.text
    assert "<u>masks1" in page.text


def test_masks_of_16_bits_with_many_classes(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "many")
    (root / "classes.txt").write_text("\n".join(("background", *(f"class {number}" for number in range(1, 401)))))
    (root / "labels.csv").write_text("id,labels\n" + "".join(f"{item_id},class 400\n" for item_id in tiny_dataset.ids))
    run_ok("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--class-names",
           root / "classes.txt", "-o", tmp_path / "many.h5")
    crowded = (np.arange(48 * 64).reshape(SIZE) // 7 % 400 + 1).astype(np.uint16)
    crowded[0, :2] = 65535
    runs = [write_run(tmp_path / name, tmp_path / "many.h5", [Item("picture_000", {"mask": mask})])
            for name, mask in (("a", build_mask(32, 400, np.uint16)), ("b", crowded))]
    page = write_report(tmp_path, *runs)
    assert np.array_equal(decode_mask(page.read_layer("picture_000", "a")), build_mask(32, 400, np.int32))
    values = decode_mask(page.read_layer("picture_000", "b"))
    assert len(np.unique(values)) == 256
    is_shown = values != -2
    assert np.array_equal(values[is_shown], np.where(crowded == 65535, -1, crowded)[is_shown].astype(int))
    assert is_shown.mean() > 0.6


def test_images_that_are_missing_are_named_and_have_a_place(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    index_table(root, tmp_path / "set.h5")
    masks = write_run(tmp_path / "masks", tmp_path / "set.h5", [
        Item("picture_000", {"mask": build_mask(9)}), Item("picture_001", error="it was damaged"),
        Item("picture_002", {"mask": build_mask(9)})])
    (root / "JPEGImages" / "picture_000.jpg").unlink()
    (root / "SegmentationClass" / "picture_002.png").unlink()
    done = run("report", masks, "-o", tmp_path / "report.html")
    assert done.code == 0
    assert "1 photograph could not be read: JPEGImages/picture_000.jpg: the file can't be read" in done.err
    assert "1 image could not be scored: SegmentationClass/picture_002.png" in done.err
    page = Page(tmp_path / "report.html")
    assert "can't be read" in page.images[0]["e"]
    assert "p" not in page.images[0]
    assert page.read_layer("picture_001", "masks") == {"e": "failed: it was damaged"}
    assert page.data["images"][1]["iou"]["0"] < 1  # counted as background, as by eval
    assert "can't be read" in page.data["images"][2]["note"]
    assert page.data["images"][2]["iou"] == {"0": None}
    shutil.rmtree(root / "JPEGImages")
    assert run("report", masks, "-f", "-o", tmp_path / "report.html").code == 0
    shutil.rmtree(root)
    check_error(run("report", masks, "-f", "-o", tmp_path / "report.html"), 66, "--root DIR")


def test_selection_and_order(masks, maps, tiny_dataset, tmp_path):
    ids = list(tiny_dataset.ids)
    assert write_report(tmp_path, masks, "--limit", 3).ids == [ids[0], ids[6], ids[11]]
    assert write_report(tmp_path, masks, "--limit", 3, "--sample", "first").ids == ids[:3]
    random = [write_report(tmp_path, masks, "--limit", 5, "--sample", "random", "--seed", seed).ids
              for seed in (1, 1, 2)]
    assert random[0] == random[1] == sorted(random[0])
    assert random[1] != random[2]
    page = write_report(tmp_path, masks, "--limit", 0)
    values = {image["id"]: image["iou"]["0"] for image in page.data["images"]}
    worst = write_report(tmp_path, masks, "--limit", 4, "--sample", "worst")
    assert worst.ids == sorted(ids, key=lambda item_id: (values[item_id], item_id))[:4]
    assert worst.read_scores() == page.read_scores()
    assert write_report(tmp_path, masks, "--ids", f"{ids[5]},{ids[1]}").ids == [ids[5], ids[1]]
    (tmp_path / "ids.txt").write_text(f"{ids[7]}\n\n{ids[2]}\n")
    assert write_report(tmp_path, masks, "--ids", tmp_path / "ids.txt").ids == [ids[7], ids[2]]
    scores = write_report(tmp_path, maps, "--sort", "score", "--sample", "worst", "--limit", 12).data["images"]
    assert [image["score"] for image in scores] == sorted(image["score"] for image in scores)


def test_what_cannot_be_shown_is_said(masks, maps, plain_index, tiny_net, tiny_index, tmp_path):
    output = ("-o", tmp_path / "r.html")
    check_error(run("report", masks, "-o", tmp_path / "r.pdf"), 2, "r.pdf does not end in .html", "-o report.html")
    check_error(run("report", tiny_net, *output), 2, "no run whose images", "wsss show")
    check_error(run("report", masks, "--ids", "nothing", *output), 66, "there is no image nothing")
    check_error(run("report", masks, "--sort", "score", *output), 2, "--sort score needs CAMs")
    check_error(run("report", masks, "--sort", "disagreement", *output), 2, "needs two runs of masks")
    check_error(run("report", plain_index, "--sample", "worst", *output), 2, "--sample worst needs")
    check_error(run("report", masks, maps, "--titles", "one", *output), 2, "1 titles for 2 runs")
    check_error(run("report", masks, maps, "--titles", "one,one", *output), 2, "--titles names two runs one")
    check_error(run("report", masks, "--truth", tmp_path, "--index", tiny_index, *output), 2, "Use one of them")
    run_ok("cooc", tiny_index, "-o", tmp_path / "cooc.h5")
    check_error(run("report", tmp_path / "cooc.h5", *output), 65, "holds cooc")
    assert not (tmp_path / "r.html").exists()


def test_an_existing_page_is_kept_unless_it_is_the_same(masks, maps, tmp_path):
    output = tmp_path / "report.html"
    run_ok("report", masks, "-o", output)
    before = output.read_bytes()
    assert run_ok("report", masks, "-o", output) == [str(output)]
    check_error(run("report", masks, "--limit", "2", "-o", output), 73, "already exists", "limit: 100 -> 2", "--force")
    check_error(run("report", masks, maps, "-o", output), 73, "runs.cams: null ->", "--force")
    assert output.read_bytes() == before
    run_ok("report", masks, maps, "-f", "-o", output)
    assert output.read_bytes() != before
    output.write_text("notes")
    check_error(run("report", masks, "-o", output), 73, "already exists")
    (tmp_path / "folder.html").mkdir()
    check_error(run("report", masks, "-o", tmp_path / "folder.html"), 73, "is a folder")
    done = run("report", masks, "-n", "-o", tmp_path / "dry.html")
    assert (done.code, done.out) == (0, "")
    assert "Would write" in done.err
    assert not (tmp_path / "dry.html").exists()


def test_the_path_is_printed_as_it_was_given(masks, tmp_path):
    for _ in range(2):
        assert run_ok("report", masks, "-o", "r.html", cwd=tmp_path) == ["r.html"]


def test_equal_inputs_give_equal_bytes(masks, maps, tmp_path):
    pages = [tmp_path / f"{name}.html" for name in "ab"]
    for page in pages:
        run_ok("report", masks, maps, "-o", page)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_shards_of_one_run_are_one_run(tiny_index, tiny_net, maps, tmp_path):
    paths = run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "--scales", 1, "--device", "cpu", "--shard-size", 5,
                   "-j", 1, "-o", tmp_path / "parts")
    assert len(paths) == 3
    page = write_report(tmp_path, *paths)
    assert page.data["runs"] == ["parts"]
    assert len(page.ids) == 12


def test_runs_of_one_name_are_told_apart(masks, tiny_index, tmp_path):
    copy = Path(shutil.copytree(masks, tmp_path / "again" / "masks"))
    page = write_report(tmp_path, masks, copy, copy, "--index", tiny_index)
    assert len(set(page.data["runs"])) == 3
    assert page.data["runs"][1:] == ["again/masks (1)", "again/masks (2)"]


def test_ground_truth_of_other_classes_is_not_used(tiny_index, tmp_path):
    """Masks that were segmented by words of the user have classes of their own."""
    shard = Shard(tiny_index)
    folder = tmp_path / "words"
    folder.mkdir()
    write_shard(folder / "masks-00000-of-00001.h5", ShardContents(
        "masks", ("background", "fur"), [Item("picture_000", {"mask": build_mask(9)})], index_digest=shard.digest,
        index_path=str(tiny_index)))
    done = run("report", folder, "-o", tmp_path / "r.html")
    assert done.code == 0
    assert "The classes of the index are not those of the runs" in done.err
    page = Page(tmp_path / "r.html")
    assert not page.data["scored"]
    assert page.data["tags"] == ["background", "cat", "dog"]


def test_python_writes_the_same_page(masks, tmp_path):
    import wsss
    run_ok("report", masks, "--limit", 2, "-o", tmp_path / "cli.html")
    result = wsss.report(masks, limit=2, output=tmp_path / "python.html")
    assert list(result.paths) == [tmp_path / "python.html"]
    assert (tmp_path / "python.html").read_bytes() == (tmp_path / "cli.html").read_bytes()
