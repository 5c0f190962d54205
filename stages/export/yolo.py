"""Ultralytics YOLO: one text file per image with a polygon per line, and data.yaml.

The format has no place for ignored pixels, holes are cut open, and class numbers start at 0 without a background.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from stages.errors import UsageError
from stages.export.config import YoloConfig
from stages.export.exported_set import ExportedFile, ExportedImage, ExportedSet
from stages.export.polygons import Polygon, combine_iou, find_polygons


def build_files(exported: ExportedSet, config: YoloConfig) -> Iterator[ExportedFile]:
    """Yield labels/SPLIT/<id>.txt of each image and data.yaml. Raises UsageError for an id that YOLO can't find."""
    for image in exported.images:
        if "images" in PurePosixPath(image.id).parts[:-1]:
            raise UsageError(f"the image id {image.id} has a folder named images, and YOLO finds labels by replacing "
                             "the last /images/ of a path with /labels/", "Index the images with other ids")
        yield f"labels/{config.split}/{image.id}.txt", _encode_labels(image, exported, config)
    yield "data.yaml", _build_data_file(exported.classes)
    exported.statistics.notes.append(
        "data.yaml expects both images/train and images/val: export each with its --split to the same folder.")


def _encode_labels(image: ExportedImage, exported: ExportedSet, config: YoloConfig) -> bytes:
    mask = image.read_mask()
    lines = []
    for class_id in exported.list_present(mask):
        polygons = list(find_polygons(mask == class_id, config.tolerance))
        exported.statistics.add_iou(combine_iou(polygons), exported.classes[class_id], image.id)
        lines += [f"{class_id - 1} {_format_points(polygon, image)}\n" for polygon in polygons]
    return "".join(lines).encode()


def _format_points(polygon: Polygon, image: ExportedImage) -> str:
    return " ".join(f"{value:.6f}" for value in (polygon.points / (image.width, image.height)).ravel().tolist())


def _build_data_file(classes: tuple[str, ...]) -> bytes:
    # A string of JSON is a string of YAML.
    names = "".join(f"  {class_id}: {json.dumps(name, ensure_ascii=False)}\n"
                    for class_id, name in enumerate(classes[1:]))
    return f"train: images/train\nval: images/val\nnames:\n{names}".encode()
