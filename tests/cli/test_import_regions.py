"""`import regions`: label maps and SAM's masks as a run of regions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cli.runner import check_error, read_items, run, run_ok
from stages.shards import Run
from tiny_datasets import TinyDataset

SIZE = (48, 64)


def build_labels(number: int, largest: int = 300) -> np.ndarray:
    labels = np.random.default_rng(number).integers(0, largest + 1, SIZE)
    labels[0, 0] = largest
    return labels


def save_all(folder: Path, dataset: TinyDataset, save: Callable[[Path, int], Any]) -> Path:
    folder.mkdir()
    for number, item_id in enumerate(dataset.ids):
        save(folder / item_id, number)
    return folder


def save_png(path: Path, labels: np.ndarray, dtype: type) -> None:
    Image.fromarray(labels.astype(dtype)).save(path.with_suffix(".png"))


def encode(region: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def run_import(folder: Path, index: Path, output: Path, *more: object):
    return run("import", "regions", folder, "--index", index, "-o", output, *more)


@pytest.mark.parametrize(("largest", "dtype"), [(200, np.uint8), (255, np.uint8), (300, np.uint16),
                                                (65535, np.uint16), (100_000, np.int64)])
def test_label_maps_keep_their_labels(largest, dtype, tiny_dataset, tiny_index, tmp_path):
    def save(path: Path, number: int) -> None:
        labels = build_labels(number, largest)
        labels[0, 1] = largest - 1
        if dtype == np.int64:
            np.save(path, labels)
        else:
            save_png(path, labels, dtype)

    folder = save_all(tmp_path / "files", tiny_dataset, save)
    paths = run_ok("import", "regions", folder, "--index", tiny_index, "-o", tmp_path / "regions")
    assert [Path(path).name for path in paths] == ["regions-00000-of-00001.h5"]
    for number, labels in enumerate(read_items(tmp_path / "regions", "regions", "labels").values()):
        expected = build_labels(number, largest)
        expected[0, 1] = largest - 1
        assert labels.dtype == np.int32
        assert np.array_equal(labels, expected)


def test_other_commands_read_or_reject_the_run(tiny_dataset, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", tiny_dataset,
                      lambda path, number: save_png(path, build_labels(number), np.uint16))
    more = ("--shard-size", "5")
    run_ok("import", "regions", folder, "--index", tiny_index, "-o", tmp_path / "regions", *more)
    assert run("check", tmp_path / "regions").code == 0
    assert "regions" in "\n".join(run_ok("info", tmp_path / "regions"))
    run_ok("merge", tmp_path / "regions", "-o", tmp_path / "merged.h5")
    merged = read_items(tmp_path / "merged.h5", "regions", "labels")
    assert all(np.array_equal(labels, build_labels(number)) for number, labels in enumerate(merged.values()))
    check_error(run("eval", tmp_path / "regions"), 65, "holds regions, not cams or masks")


# Three regions: a large one, a small one inside it, and one that overlaps both, in this order.
LARGE, SMALL, MIDDLE = (np.zeros(SIZE, bool) for _ in range(3))
LARGE[4:40, 4:60], SMALL[10:16, 10:20], MIDDLE[12:30, 15:50] = True, True, True
SCORES = (0.9, 0.5, 0.7)


@pytest.mark.parametrize(("on_top", "order"), [("smaller", (1, 3, 2)), ("larger", (2, 3, 1)), ("score", (2, 3, 1)),
                                               ("order", (1, 2, 3))])
@pytest.mark.parametrize("form", ["rle", "counts", "rows", "sa-1b"])
def test_regions_of_sam_are_drawn_in_the_chosen_order(on_top, order, form, tiny_dataset, tiny_index, tmp_path):
    def save(path: Path, number: int) -> None:
        entries = [{"segmentation": encode(region), "area": int(region.sum()), "predicted_iou": score}
                   for region, score in zip((LARGE, SMALL, MIDDLE), SCORES, strict=True)]
        if form == "rows":
            entries = [{**entry, "segmentation": region.tolist()}
                       for entry, region in zip(entries, (LARGE, SMALL, MIDDLE), strict=True)]
        if form == "counts":
            entries = [{**entry, "segmentation": {"size": list(SIZE), "counts": count_runs(region)}}
                       for entry, region in zip(entries, (LARGE, SMALL, MIDDLE), strict=True)]
        content = {"image": {"image_id": 3}, "annotations": entries} if form == "sa-1b" else entries
        path.with_suffix(".json").write_text(json.dumps(content))

    folder = save_all(tmp_path / "files", tiny_dataset, save)
    assert run_import(folder, tiny_index, tmp_path / "regions", "--on-top", on_top).code == 0
    expected = np.zeros(SIZE, np.int32)
    for label in order:
        expected[(LARGE, SMALL, MIDDLE)[label - 1]] = label
    for labels in read_items(tmp_path / "regions", "regions", "labels").values():
        assert np.array_equal(labels, expected)


def count_runs(region: np.ndarray) -> list[int]:
    counts, last = [0], False
    for value in region.T.ravel().tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


@pytest.mark.parametrize(("content", "words"), [
    ({"a": []}, ("no list of regions",)), ([1], ("regions[0]", "the region is '1'")),
    ([{"area": 3}], ("regions[0]", "no segmentation")),
    ([{"segmentation": {"size": [64, 48], "counts": "0"}}], ("64x48",)),
    ([{"segmentation": [[True, False], [True]]}], ("rows",)),
    ([{"segmentation": [[True, False]]}], ("1x2", "48x64")),
    ([{"segmentation": [[1, 2, 3]]}], ("3 numbers", "Correct this entry, or remove it")),
    ("[", ("not valid JSON",))])
def test_other_json_is_rejected(content, words, tiny_dataset, tiny_index, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    folder = save_all(tmp_path / "files", tiny_dataset,
                      lambda path, number: path.with_suffix(".json").write_text(text))
    check_error(run_import(folder, tiny_index, tmp_path / "regions"), 65, "picture_000.json", *words)


@pytest.mark.parametrize(("change", "words"), [
    (lambda labels: labels - 1, ("-1", "Write 0")), (lambda labels: labels[:, :-1], ("48x63", "48x64")),
    (lambda labels: labels / 2, ("float64", "whole numbers")), (lambda labels: labels << 40, ("0 or more",))])
def test_other_arrays_are_rejected(change, words, tiny_dataset, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", tiny_dataset, lambda path, number: np.save(
        path, change(build_labels(number))))
    check_error(run_import(folder, tiny_index, tmp_path / "regions"), 65, "picture_000.npy", *words)


def test_a_marked_border_is_no_region_and_scores_must_exist(tiny_dataset, tiny_index, tmp_path):
    border = np.where(build_labels(0) > 280, 255, build_labels(0) % 20)
    folder = save_all(tmp_path / "files", tiny_dataset, lambda path, number: save_png(path, border, np.uint8))
    check_error(run_import(folder, tiny_index, tmp_path / "regions"), 65, "labels up to 19",
                "--none-value 255")
    assert run_import(folder, tiny_index, tmp_path / "borders", "--none-value", "255").code == 0
    for labels in read_items(tmp_path / "borders", "regions", "labels").values():
        assert np.array_equal(labels, np.where(border == 255, 0, border))
    folder = save_all(tmp_path / "sam", tiny_dataset, lambda path, number: path.with_suffix(".json").write_text(
        json.dumps([{"segmentation": encode(LARGE)}])))
    check_error(run_import(folder, tiny_index, tmp_path / "regions", "--on-top", "score"), 65, "no score",
                "--on-top smaller")
    assert not (tmp_path / "regions").exists()
    assert run_import(folder, tiny_index, tmp_path / "regions").code == 0
    assert Run([tmp_path / "regions"]).first.provenance[-1]["config"]["on_top"] == "smaller"
