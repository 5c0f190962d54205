"""COCO: one JSON file with all annotations, as run lengths or polygons.

Ignored pixels become crowd annotations, which evaluations leave out and most trainings skip. COCO ignores them for one
class at a time, so there is one for each class of the image (for the first class, if the image has none).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from stages.export.config import CocoConfig
from stages.export.exported_set import ExportedFile, ExportedImage, ExportedSet, compute_class_colours
from stages.export.polygons import combine_iou, find_polygons
from stages.kernels.polygons import split_components


def build_files(exported: ExportedSet, config: CocoConfig) -> Iterator[ExportedFile]:
    """Yield annotations/instances_SPLIT.json, which is encoded while it is written."""
    yield f"annotations/instances_{config.split}.json", _encode(exported, config)


def _encode(exported: ExportedSet, config: CocoConfig) -> Iterator[bytes]:
    colours = compute_class_colours(len(exported.classes) - 1)
    categories = [{"id": class_id, "name": name, "supercategory": "", "color": list(colours[class_id])}
                  for class_id, name in enumerate(exported.classes) if class_id]
    yield b'{"info": {"description": "Exported by wsss"},\n"licenses": [],\n"categories": '
    yield _dump(categories) + b',\n"images": [\n'
    yield from _join_lines({"id": number, "file_name": image.file_name, "width": image.width, "height": image.height}
                           for number, image in enumerate(exported.images, start=1))
    yield b'],\n"annotations": [\n'
    yield from _join_lines(_number_annotations(exported, config))
    yield b"]}\n"


def _number_annotations(exported: ExportedSet, config: CocoConfig) -> Iterator[dict[str, Any]]:
    annotation_id = 0
    for number, image in enumerate(exported.images, start=1):
        mask = image.read_mask()
        for annotation in _list_annotations(image, mask, exported, config):
            annotation_id += 1
            yield {"id": annotation_id, "image_id": number, **annotation}


def _list_annotations(image: ExportedImage, mask: np.ndarray, exported: ExportedSet,
                      config: CocoConfig) -> Iterator[dict[str, Any]]:
    class_ids = exported.list_present(mask)
    for class_id in class_ids:
        if config.segmentation == "polygon":
            yield from _build_polygons(image, mask == class_id, class_id, exported, config)
        else:
            regions = _split(mask == class_id) if config.components else [mask == class_id]
            yield from (_build_annotation(class_id, _encode_rle(region), None) for region in regions)
    ignored = mask == exported.ignore_index
    if ignored.any():
        rle = _encode_rle(ignored)
        yield from (_build_annotation(class_id, rle, None, is_crowd=True) for class_id in class_ids or [1])


def _split(region: np.ndarray) -> Iterator[np.ndarray]:
    for box, component in split_components(region):
        whole = np.zeros(region.shape, dtype=bool)
        whole[box] = component
        yield whole


def _build_polygons(image: ExportedImage, region: np.ndarray, class_id: int, exported: ExportedSet,
                    config: CocoConfig) -> Iterator[dict[str, Any]]:
    polygons = list(find_polygons(region, config.tolerance))
    exported.statistics.add_iou(combine_iou(polygons), exported.classes[class_id], image.id)
    for group in [[polygon] for polygon in polygons] if config.components else [polygons]:
        points = [polygon.points.round(2).ravel().tolist() for polygon in group]
        rle = coco_masks.merge(coco_masks.frPyObjects(points, *region.shape))
        yield _build_annotation(class_id, rle, points)


def _encode_rle(region: np.ndarray) -> dict[str, Any]:
    return coco_masks.encode(np.asfortranarray(region, dtype=np.uint8))


def _build_annotation(class_id: int, rle: dict[str, Any], polygons: list[list[float]] | None, *,
                      is_crowd: bool = False) -> dict[str, Any]:
    """Return an annotation with the area and the box of its run lengths."""
    segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode()} if polygons is None else polygons
    return {"category_id": class_id, "iscrowd": int(is_crowd), "area": int(coco_masks.area(rle)),
            "bbox": coco_masks.toBbox(rle).tolist(), "segmentation": segmentation}


def _join_lines(records: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    separator = b""
    for record in records:
        yield separator + _dump(record)
        separator = b",\n"


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
