"""Layouts of benchmarks: class lists and mask values."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.data.label_maps import LABEL_MAPS, apply_label_map
from stages.data.layout_benchmark import BENCHMARKS, list_benchmark
from stages.data.layout_voc import VOC_CLASSES
from stages.data.masks import decode_mask
from stages.errors import BadData, MissingInput


def save(path: Path, values: np.ndarray, *, image: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*values.shape, 3), np.uint8) if image else values).save(path)


def test_class_lists_equal_those_of_mmsegmentation(reference):
    names = json.loads(reference.file("image-text/classnames_mmseg027.json").read_text())
    lists = {"context": "context60", "coco-stuff": "coco_stuff171", "coco-object": "coco_object81",
             "cityscapes": "cityscapes19", "ade20k": "ade150"}
    from stages.data.class_vocabulary import read_preset_class_names
    for name, layout in BENCHMARKS.items():
        expected = [class_name.strip() for class_name in names[lists[name]]]
        assert expected == (["background"] if layout.background else []) + list(read_preset_class_names(layout.preset))
    assert list(VOC_CLASSES) == names["voc21"] and list(read_preset_class_names("sclip-voc")) == names["voc20"]


LAYOUTS = {
    "context": ("JPEGImages/{}.jpg", "SegmentationClassContext/{}.png", [0, 1, 59, 255], [0, 1, 59, 255]),
    "coco-stuff": ("images/val2017/{}.jpg", "annotations/val2017/{}.png", [0, 12, 89, 91, 181, 255],
                   [1, 12, 80, 81, 171, 255]),
    "coco-object": ("val2017/{}.jpg", "stuffthingmaps/val2017/{}.png", [0, 12, 89, 91, 181, 255],
                    [1, 12, 80, 0, 0, 0]),
    "cityscapes": ("leftImg8bit/val/{}_leftImg8bit.png", "gtFine/val/{}_gtFine_labelIds.png", [0, 7, 33, 10, 255],
                   [255, 1, 19, 255, 255]),
    "ade20k": ("images/validation/{}.jpg", "annotations/validation/{}.png", [0, 1, 150], [0, 1, 150])}


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_and_mask_values(tmp_path, name):
    image, mask, values, expected = LAYOUTS[name]
    item = "bonn/bonn_000" if name == "cityscapes" else "000123"
    row = np.array([values], np.uint8)
    save(tmp_path / image.format(item), row, image=True)
    save(tmp_path / mask.format(item), row)
    listing = list_benchmark(name, tmp_path)
    assert [(record.id, record.path, record.mask_path, record.labels) for record in listing.records] == [
        (item, image.format(item), mask.format(item), None)]
    decoded = decode_mask((tmp_path / mask.format(item)).read_bytes(), where="mask",
                          num_classes=len(listing.classes) - 1, label_map=listing.label_map)
    assert decoded.tolist() == [expected]
    assert bool(listing.classes[0]) == BENCHMARKS[name].background


def test_converted_masks_are_preferred(tmp_path):
    row = np.array([[0, 170, 255]], np.uint8)
    save(tmp_path / "images/val2017/1.jpg", row, image=True)
    for ending in ("", "_labelTrainIds"):
        save(tmp_path / f"annotations/val2017/1{ending}.png", row)
    listing = list_benchmark("coco-stuff", tmp_path)
    assert (listing.label_map, listing.records[0].mask_path) == ("from-zero",
                                                                 "annotations/val2017/1_labelTrainIds.png")
    assert apply_label_map(row, "from-zero", "x").tolist() == [[1, 171, 255]]


def test_lists_and_data_sets_without_background(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((2, 2), np.uint8), image=True)
        save(tmp_path / f"SegmentationClassContext/{name}.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "ImageSets/SegmentationContext").mkdir(parents=True)
    (tmp_path / "ImageSets/SegmentationContext/val.txt").write_text("b\n")
    assert [record.id for record in list_benchmark("context", tmp_path).records] == ["b"]
    assert [record.id for record in list_benchmark("context", tmp_path, split="train").records] == ["a", "b"]
    assert list_benchmark("context", tmp_path, background=False).classes[0] == ""
    assert len(list_benchmark("context", tmp_path, background=False).classes) == 60


def test_missing_folders_are_reported(tmp_path):
    with pytest.raises(MissingInput, match="leftImg8bit/val"):
        list_benchmark("cityscapes", tmp_path)
    save(tmp_path / "leftImg8bit/val/a_leftImg8bit.png", np.zeros((2, 2), np.uint8), image=True)
    with pytest.raises(MissingInput, match="_gtFine_labelTrainIds"):
        list_benchmark("cityscapes", tmp_path)


def test_values_not_in_a_benchmark_are_rejected():
    with pytest.raises(BadData, match="value 11"):
        apply_label_map(np.array([[11]], np.uint8), "coco-stuff", "x")
    with pytest.raises(BadData, match="value 300"):
        apply_label_map(np.array([[300]], np.uint16), "coco-stuff", "x")
    buffer = io.BytesIO()
    Image.fromarray(np.array([[25]], np.uint8)).save(buffer, "PNG")
    with pytest.raises(BadData, match="value 25"):
        decode_mask(buffer.getvalue(), where="x", num_classes=171, label_map="coco-stuff")
    counts = {name: len(set(table.tolist()) - {0, 254, 255}) for name, table in LABEL_MAPS.items()}
    assert (counts["coco-stuff"], counts["coco-object"], counts["cityscapes"]) == (171, 80, 19)


def test_no_pixel_of_coco_object_is_ignored():
    """Stuff and unlabelled pixels are background, as in the masks of GroupViT's converter."""
    assert apply_label_map(np.array([0, 91, 181, 255]), "coco-object", "x").tolist() == [1, 0, 0, 0]
    assert 255 not in LABEL_MAPS["coco-object"]
