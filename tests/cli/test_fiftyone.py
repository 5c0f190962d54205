"""`index fiftyone`: samples.json and metadata.json as FiftyOne writes them."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.annotations import (
    HEIGHT,
    INNER,
    PAINTED,
    SQUARE,
    WIDTH,
    check_mask,
    draw_polygon,
    index_layout,
    read_classes,
    read_items,
    save_image,
)
from cli.runner import check_error


def encode_array(array: np.ndarray) -> dict:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(buffer.getvalue())).decode(), "subType": "00"}}


def build_sample(**fields) -> dict:
    return {"_id": {"$oid": "5f"}, "filepath": "data/a.png", "tags": [], "_media_type": "image",
            "metadata": {"_cls": "ImageMetadata", "width": WIDTH, "height": HEIGHT, "num_channels": 3}, **fields}


def index_fiftyone(tmp_path: Path, sample: dict, *more: object, **metadata):
    root = tmp_path / "export"
    save_image(root / "data" / "a.png")
    (root / "metadata.json").write_text(json.dumps({"name": "pets", "media_type": "image", **metadata}))
    (root / "samples.json").write_text(json.dumps({"samples": [sample]}))
    return index_layout("fiftyone", root, *more)


def test_fiftyone_instances_and_polylines(tmp_path):
    bitmap = PAINTED[10:20, 30:50]
    detection = {"_cls": "Detection", "label": "dog", "mask": encode_array(bitmap),
                 "bounding_box": [30 / WIDTH, 10 / HEIGHT, 20 / WIDTH, 10 / HEIGHT]}
    done = index_fiftyone(tmp_path, build_sample(ground_truth={"_cls": "Detections", "detections": [detection]}))
    assert done.code == 0, done.err
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[10:20, 30:50] = bitmap
    assert read_classes(tmp_path / "export") == ("background", "dog")
    assert read_items(tmp_path / "export")["data/a"][0] == (1,)
    check_mask(read_items(tmp_path / "export")["data/a"][1], expected)
    fractions = (np.reshape(SQUARE, (-1, 2)) / (WIDTH, HEIGHT)).tolist()
    polyline = {"_cls": "Polyline", "label": "cat", "points": [fractions], "closed": True, "filled": True}
    index_fiftyone(tmp_path, build_sample(outlines={"_cls": "Polylines", "polylines": [polyline]}), "--field",
                   "outlines")
    check_mask(read_items(tmp_path / "export")["data/a"][1], draw_polygon(SQUARE))


@pytest.mark.parametrize("points", [{}, {"points": []}, {"points": "0.1 0.1"}], ids=str)
def test_fiftyone_polyline_without_points(tmp_path, points):
    polyline = {"_cls": "Polyline", "label": "cat", "closed": True, "filled": True, **points}
    sample = build_sample(ground_truth={"_cls": "Polylines", "polylines": [polyline]})
    check_error(index_fiftyone(tmp_path, sample), 65, "data/a.png: Polyline 1 (cat)", "points")


@pytest.mark.parametrize("corner", [(1.2, 0.1), (0.1, 1.2), (-1.2, 0.1), (0.1, -1.2)], ids=str)
def test_fiftyone_instance_outside_the_image(tmp_path, corner):
    detection = {"_cls": "Detection", "label": "dog", "mask": encode_array(PAINTED[10:20, 30:50]),
                 "bounding_box": [*corner, 20 / WIDTH, 10 / HEIGHT]}
    sample = build_sample(ground_truth={"_cls": "Detections", "detections": [detection]})
    check_error(index_fiftyone(tmp_path, sample), 65, "Detection 1 (dog)", "covers no pixel")


def test_fiftyone_tags_and_boxes(tmp_path):
    box = {"_cls": "Detection", "label": "dog", "bounding_box": [0.1, 0.1, 0.2, 0.2]}
    for field in ({"_cls": "Detections", "detections": [box]}, {"_cls": "Classification", "label": "dog"},
                  {"_cls": "Classifications", "classifications": [{"label": "dog"}]}):
        assert index_fiftyone(tmp_path, build_sample(ground_truth=field)).code == 0
        assert read_items(tmp_path / "export")["data/a"] == ((1,), None)


def test_fiftyone_segmentations(tmp_path):
    mask = np.where(draw_polygon(INNER), 7, 3 * draw_polygon(SQUARE)).astype(np.uint8)
    targets = {"0": "background", "3": "cat", "7": "dog"}
    sample = build_sample(ground_truth={"_cls": "Segmentation", "mask": encode_array(mask)})
    check_error(index_fiftyone(tmp_path, sample), 65, "value 3", "mask_targets")
    assert index_fiftyone(tmp_path, sample, default_mask_targets=targets).code == 0
    check_mask(read_items(tmp_path / "export")["data/a"][1], np.where(mask == 7, 2, mask == 3))
    (tmp_path / "export" / "fields").mkdir()
    Image.fromarray(mask).save(tmp_path / "export" / "fields" / "a.png")
    sample = build_sample(ground_truth={"_cls": "Segmentation", "mask_path": "fields/a.png"})
    assert index_fiftyone(tmp_path, sample, mask_targets={"ground_truth": targets}).code == 0
    check_mask(read_items(tmp_path / "export")["data/a"][1], np.where(mask == 7, 2, mask == 3))


@pytest.mark.parametrize(("fields", "code", "messages"), [
    ({"labels": {"_cls": "Classification", "label": "cat"}}, 2, ("'ground_truth'", "--field labels")),
    ({"ground_truth": {"_cls": "Regression", "value": 1}}, 65, ("samples[0].ground_truth", "'Regression'")),
    ({"ground_truth": {"_cls": "Classification", "label": None}}, 65, ("label None",)),
    ({"metadata": None, "ground_truth": {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 1, 1],
                                         "mask": encode_array(PAINTED)}}, 65, ("compute_metadata",)),
    ({"ground_truth": {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 1, 1],
                       "mask": encode_array(PAINTED[:28, :28])}}, 65, ("28x28", "40x60")),
    ({"ground_truth": {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 1],
                       "mask": encode_array(PAINTED)}}, 65, ("4 numbers",)),
    ({"ground_truth": {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 1, 1],
                       "mask": {"$binary": {"base64": "AAAA"}}}}, 65, ("not a compressed array",)),
    ({"ground_truth": {"_cls": "Detection", "label": "cat", "bounding_box": [0, 0, 1, 1],
                       "mask": encode_array(PAINTED * 0.5)}}, 65, ("float64",)),
])
def test_other_labels_of_fiftyone_are_rejected(tmp_path, fields, code, messages):
    check_error(index_fiftyone(tmp_path, build_sample(**fields)), code, "samples.json", *messages)


def test_fiftyone_videos_are_rejected(tmp_path):
    done = index_fiftyone(tmp_path, build_sample(ground_truth={"_cls": "Classification", "label": "cat"}),
                          media_type="video")
    check_error(done, 65, "metadata.json", "'video'")
