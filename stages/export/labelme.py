"""LabelMe: one JSON file per image with polygons, beside the image, and labels.txt.

Ignored pixels have the label `__ignore__`, which the converters of labelme turn into 255.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np

from stages.export.config import LabelmeConfig
from stages.export.exported_set import IGNORED_LABEL, ExportedFile, ExportedImage, ExportedSet
from stages.export.polygons import combine_iou, find_polygons

_VERSION = "5.5.0"  # of labelme, whose files have these fields
_BACKGROUND = "_background_"


def build_files(exported: ExportedSet, config: LabelmeConfig) -> Iterator[ExportedFile]:
    """Yield <id>.json of each image and labels.txt."""
    for image in exported.images:
        content = _build_content(image, _list_shapes(image, exported, config.tolerance))
        yield f"{image.id}.json", (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
    labels = [IGNORED_LABEL, _BACKGROUND, *exported.classes[1:]]
    yield "labels.txt", "".join(f"{label}\n" for label in labels).encode()


def _build_content(image: ExportedImage, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    path = posixpath.relpath(image.file_name, posixpath.dirname(image.id) or ".")
    return {"version": _VERSION, "flags": {}, "shapes": shapes, "imagePath": path, "imageData": None,
            "imageHeight": image.height, "imageWidth": image.width}


def _list_shapes(image: ExportedImage, exported: ExportedSet, tolerance: float) -> list[dict[str, Any]]:
    mask = image.read_mask()
    shapes = []
    for class_id in exported.list_present(mask):
        shapes += _build_shapes(image, mask == class_id, exported.classes[class_id], exported, tolerance)
    return shapes + _build_shapes(image, mask == exported.ignore_index, IGNORED_LABEL, exported, tolerance)


def _build_shapes(image: ExportedImage, region: np.ndarray, label: str, exported: ExportedSet,
                  tolerance: float) -> list[dict[str, Any]]:
    polygons = list(find_polygons(region, tolerance))
    if polygons:
        exported.statistics.add_iou(combine_iou(polygons), label, image.id)
    return [{"label": label, "points": polygon.points.round(2).tolist(), "group_id": None, "description": "",
             "shape_type": "polygon", "flags": {}, "mask": None} for polygon in polygons]
