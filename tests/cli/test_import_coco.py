"""`import coco`: instances in COCO's results format, drawn as masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cli.runner import check_error, read_items, run, run_ok
from stages.shards import Run
from tiny_datasets import TinyDataset


@pytest.fixture(scope="module")
def truth(tiny_dataset: TinyDataset) -> dict[str, np.ndarray]:
    """Return the true masks of the tiny data set by id, with ignored pixels as background."""
    masks = {}
    for item_id in tiny_dataset.ids:
        mask = np.array(Image.open(tiny_dataset.root / "SegmentationClass" / f"{item_id}.png"))
        masks[item_id] = np.where(mask == 255, 0, mask).astype(np.uint8)
    return masks


def encode(region: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def list_results(truth: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return an instance per class of each image. Images are numbered from 100, and categories are 3 and 9."""
    return [{"image_id": 100 + number, "category_id": {1: 3, 2: 9}[class_id], "score": 0.9,
             "segmentation": encode(mask == class_id)}
            for number, mask in enumerate(truth.values()) for class_id in np.unique(mask[mask > 0]).tolist()]


def write_annotations(path: Path, ids: tuple[str, ...], names: tuple[str, str] = ("Cat", "dog")) -> Path:
    path.write_text(json.dumps({
        "images": [{"id": 100 + number, "file_name": f"{item_id}.jpg"} for number, item_id in enumerate(ids)],
        "categories": [{"id": 3, "name": names[0]}, {"id": 9, "name": names[1]}], "annotations": []}))
    return path


@pytest.fixture
def annotations(tiny_dataset: TinyDataset, tmp_path: Path) -> Path:
    return write_annotations(tmp_path / "instances.json", tiny_dataset.ids)


def import_results(results: object, annotations: object, index: Path, folder: Path, *more: object):
    (folder / "results.json").write_text(json.dumps(results))
    return run("import", "coco", folder / "results.json", "--index", index, "--annotations", annotations, "-o",
               folder / "masks", *more)


def test_the_true_objects_give_the_true_masks(truth, annotations, tiny_index, tmp_path):
    done = import_results(list_results(truth), annotations, tiny_index, tmp_path)
    assert done.code == 0, done.err
    imported = read_items(tmp_path / "masks", "masks", "mask")
    assert all(np.array_equal(imported[item_id], mask) for item_id, mask in truth.items())
    assert json.loads("\n".join(run_ok("eval", tmp_path / "masks", "--json")))["miou"] == 1.0
    entry = Run([tmp_path / "masks"]).first.provenance[-1]
    assert set(entry["inputs"]) == {"index", "results", "annotations"}
    run_ok("show", tmp_path / "masks", "--count", "2", "-o", tmp_path / "look.png")


def test_class_ids_and_image_ids_without_annotations(truth, tiny_index, tmp_path):
    results = [{**entry, "image_id": list(truth)[entry["image_id"] - 100],
                "category_id": {3: 1, 9: 2}[entry["category_id"]]} for entry in list_results(truth)]
    assert import_results(results, "none", tiny_index, tmp_path).code == 0
    imported = read_items(tmp_path / "masks", "masks", "mask")
    assert all(np.array_equal(imported[item_id], mask) for item_id, mask in truth.items())
    check_error(import_results(list_results(truth), "none", tiny_index, tmp_path), 65, "results[0]", "1 to 2",
                "--annotations")


def test_higher_scores_are_on_top_and_low_ones_left_out(annotations, tiny_index, tmp_path):
    region = np.zeros((48, 64), bool)
    region[4:20, 6:30] = True
    below = np.roll(region, 8, axis=0)
    results = [
        {"image_id": 100, "category_id": 3, "score": 0.8, "segmentation": encode(region)},
        {"image_id": "100", "category_id": 9, "score": 0.7,
         "segmentation": {"size": [48, 64], "counts": coco_mask_counts(below)}},
        {"image_id": 100.0, "category_id": 9, "score": 0.2, "segmentation": encode(~region)},
        {"image_id": 101, "category_id": 9, "score": 0.6, "bbox": [0, 0, 2, 2],
         "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]]}]
    done = import_results(results, annotations, tiny_index, tmp_path)
    assert done.code == 0, done.err
    assert "Drawing 3 of 4 instances on 2 of 12 images. Left out with a score below 0.5: 1." in done.err
    assert "10 images have no instance and become background, for example picture_002" in done.err
    masks = list(read_items(tmp_path / "masks", "masks", "mask").values())
    assert np.array_equal(masks[0], np.where(region, 1, np.where(below, 2, 0)))
    polygon = coco_mask.decode(coco_mask.frPyObjects([[10, 10, 40, 10, 40, 30, 10, 30]], 48, 64))[:, :, 0]
    assert np.array_equal(masks[1], polygon * 2)
    assert not masks[2].any()
    check_error(import_results(results, annotations, tiny_index, tmp_path, "--min-score", "0.1"), 73, "min_score")


def coco_mask_counts(region: np.ndarray) -> list[int]:
    """Return the runs of a region as COCO's uncompressed RLE, counted one by one."""
    counts, last = [0], False
    for value in region.T.ravel().tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


def change_first(results: list[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in {**results[0], **values}.items() if value is not ...}, *results[1:]]


@pytest.mark.parametrize(("change", "words"), [
    ({"category_id": 5}, ("results[0]", "category 5", "--annotations")),
    ({"score": ...}, ("no score", "wsss index coco")),
    ({"score": "high"}, ("'high' is no number",)),
    ({"image_id": ...}, ("lacks image_id",)),
    ({"image_id": [1]}, ("is no id",))])
def test_results_that_can_be_misread_are_rejected(change, words, truth, annotations, tiny_index, tmp_path):
    check_error(import_results(change_first(list_results(truth), **change), annotations, tiny_index, tmp_path), 65,
                *words)


@pytest.mark.parametrize(("segmentation", "words"), [
    (..., ("only a box", "segm")),
    ({"size": [64, 48], "counts": "0"}, ("64x48", "48x64")),
    ({"size": [48, 64], "counts": [5, 6]}, ("11 pixels", "3072")),
    ({"size": [48, 64], "counts": "\x7f"}, ("counts",)),
    ([[1, 2, 3]], ("3 numbers",)), ([[1, 2, 3, 4, 1e6, 7]], ("outside the image",)), ("abc", ("neither RLE",)),
    ([[1, 2, "3", 4, 5, 6]], ("no numbers",))])
def test_an_invalid_region_fails_its_image_with_its_position(segmentation, words, truth, annotations, tiny_index,
                                                             tmp_path):
    results = change_first(list_results(truth), segmentation=segmentation)
    assert import_results(results, annotations, tiny_index, tmp_path).code == 65
    errors = Run([tmp_path / "masks"]).first.errors
    assert list(errors) == ["picture_000"]
    for word in ("results.json: results[0]", *words):
        assert word in errors["picture_000"]
    assert "--no-draw-masks" not in errors["picture_000"]
    if isinstance(segmentation, list) and segmentation[0] != [1, 2, "3", 4, 5, 6]:
        assert "Correct this entry, or remove it" in errors["picture_000"]


def test_files_of_other_data_are_rejected(truth, tiny_dataset, tiny_index, tmp_path):
    other = write_annotations(tmp_path / "other.json", ("x", "y"))
    check_error(import_results(list_results(truth), other, tiny_index, tmp_path), 65, "none of the results",
                "100", "picture_000")
    named = write_annotations(tmp_path / "named.json", tiny_dataset.ids, ("cat", "zebra"))
    check_error(import_results(list_results(truth), named, tiny_index, tmp_path), 65, "zebra", "cat, dog")
    some = write_annotations(tmp_path / "some.json", tiny_dataset.ids[:10])
    done = import_results(list_results(truth), some, tiny_index, tmp_path)
    assert done.code == 65 and "Skipped the instances of 2 images" in done.err
    assert set(Run([tmp_path / "masks"]).first.errors) == set(tiny_dataset.ids[10:])
    check_error(import_results({"a": 1}, some, tiny_index, tmp_path), 65, "no list of results")
    (tmp_path / "bad.json").write_text("[{")
    command = ("import", "coco", tmp_path / "bad.json", "--index", tiny_index, "-o", tmp_path / "no")
    check_error(run(*command, "--annotations", "none"), 65, "not valid JSON")
    assert run(*command).code == 2
    check_error(run("import", "coco", tmp_path / "no.json", "--index", tiny_index, "--annotations", "none", "-o",
                    tmp_path / "no"), 66, "no such file")
