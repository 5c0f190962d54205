"""Read regions without classes: label maps, and the masks that SAM and similar tools write as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stages.data.masks import IGNORE_16_BIT, decode_mask
from stages.data.run_lengths import encode_runs
from stages.data.shapes import Shape, draw_shapes
from stages.errors import BadData
from stages.import_.mask_files import decode_label_array
from stages.import_.numpy_files import NPY_SIGNATURE, NPZ_SIGNATURE
from stages.import_.rle_json import SHAPE_REMEDY, build_shape, parse_json

REGION_SUFFIXES = (".png", ".json", ".npy", ".npz", ".tif", ".tiff", ".bmp", ".pgm")
_MAX_REGIONS = IGNORE_16_BIT - 1  # in a JSON file
_LARGEST_LABELS = (255, IGNORE_16_BIT)  # of image files of 8 and 16 bits; decode_mask marks both as ignored
_SCORE_KEYS = ("score", "predicted_iou")
_LIST_REMEDY = ('Give the list that SAM\'s mask generator returns, or {"annotations": [...]}, with "segmentation" in '
                "each")


def decode_regions(data: bytes, *, where: str, size: tuple[int, int], max_pixels: int, on_top: str,
                   none_value: int = 0) -> np.ndarray:
    """Return the labels (H, W) int32 of a file; 0 is no region, and the label `none_value` becomes 0.

    `on_top` says which of overlapping regions of a JSON file is seen: smaller, larger, score or order. Raises BadData
    for other contents, and for a size other than `size` = (H, W).
    """
    if data.lstrip()[:1] in (b"[", b"{"):
        return draw_regions(parse_json(data, where), size, on_top, where)
    if data.startswith((NPY_SIGNATURE, NPZ_SIGNATURE)):
        labels = decode_label_array(data, where)
        if labels.shape != size:
            raise BadData(f"the labels have {labels.shape[0]}x{labels.shape[1]} pixels (height x width), but their "
                          f"image has {size[0]}x{size[1]}", "Use the regions of this image in its original size",
                          where=where)
        if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
            raise BadData(f"the labels go from {labels.min()} to {labels.max()}, but must be 0 or more",
                          "Write 0 where there is no region, and other labels from 1", where=where)
        return _remove_label(labels.astype(np.int32), none_value)
    labels = decode_mask(data, where=where, num_classes=_MAX_REGIONS, size=size, max_pixels=max_pixels)
    if none_value in _LARGEST_LABELS:
        labels[labels == IGNORE_16_BIT] = 0
    return _remove_label(_restore_largest_label(labels, where), none_value)


def _remove_label(labels: np.ndarray, label: int) -> np.ndarray:
    labels[labels == label] = 0
    return labels


def _restore_largest_label(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels (H, W) int32 of an image file, whose largest value (of 8 or 16 bits) is marked as ignored.

    It is a label only if the next smaller one exists; otherwise it marks borders, as in VOC's masks of objects.
    """
    is_largest = labels == IGNORE_16_BIT
    if not is_largest.any():
        return labels.astype(np.int32)
    next_label = int(labels[~is_largest].max(initial=0))
    if next_label not in (254, IGNORE_16_BIT - 1):
        raise BadData(f"the largest possible value is used next to labels up to {next_label}, so it may mark borders "
                      "and not a region", "If it does, use --none-value 255 (65535 in files of 16 bits)", where=where)
    return np.where(is_largest, next_label + 1, labels).astype(np.int32)


def draw_regions(content: Any, size: tuple[int, int], on_top: str, where: str) -> np.ndarray:
    """Return the labels (H, W) int32 of a list of regions, numbered from 1 in the order of the list. Raises BadData."""
    entries = content.get("annotations") if isinstance(content, Mapping) else content
    if not isinstance(entries, list):
        raise BadData("the file holds no list of regions", _LIST_REMEDY, where=where)
    if len(entries) > _MAX_REGIONS:
        raise BadData(f"there are {len(entries)} regions, more than {_MAX_REGIONS}", "Save them as a label map",
                      where=where)
    shapes = [_build_region(entry, position, where) for position, entry in enumerate(entries)]
    ranks = _rank(shapes, entries, size, on_top, where)
    ranked = [replace(shape, layer=rank) for shape, rank in zip(shapes, ranks, strict=True)]
    return draw_shapes(ranked, size, _MAX_REGIONS, remedy=SHAPE_REMEDY).astype(np.int32)


def _build_region(entry: Any, position: int, where: str) -> Shape:
    name = f"{where}: regions[{position}]"
    if not isinstance(entry, dict):
        raise BadData(f"the region is {str(entry)[:40]!r}", _LIST_REMEDY, where=name)
    segmentation = entry.get("segmentation")
    if not _is_bitmap(segmentation):
        return build_shape(segmentation, class_id=position + 1, layer=0, where=name)
    if len({len(row) for row in segmentation}) != 1 or any(type(value) is not bool for row in segmentation
                                                           for value in row):
        raise BadData("the bitmap is not a list of rows of true and false", _LIST_REMEDY, where=name)
    bitmap = np.array(segmentation, bool)
    return Shape(position + 1, runs=encode_runs(bitmap), size=(bitmap.shape[0], bitmap.shape[1]), where=name)


def _is_bitmap(segmentation: Any) -> bool:
    return (isinstance(segmentation, list) and bool(segmentation)
            and all(isinstance(row, list) for row in segmentation) and segmentation[0][:1] in ([True], [False])
            and type(segmentation[0][0]) is bool)


def _rank(shapes: Sequence[Shape], entries: Sequence[Mapping[str, Any]], size: tuple[int, int], on_top: str,
          where: str) -> Sequence[int]:
    """Return the layer of each region; within one layer the smaller region is on top."""
    if on_top == "smaller":
        return [0] * len(shapes)
    if on_top == "order":
        return range(len(shapes))
    if on_top == "larger":
        values: list[float] = [
            float(np.count_nonzero(draw_shapes([shape], size, _MAX_REGIONS, remedy=SHAPE_REMEDY))) for shape in shapes]
    else:
        values = [_read_score(entry, f"{where}: regions[{position}]") for position, entry in enumerate(entries)]
    order = sorted(range(len(values)), key=values.__getitem__)
    layers = {position: layer for layer, position in enumerate(order)}
    return [layers[position] for position in range(len(values))]


def _read_score(entry: Mapping[str, Any], where: str) -> float:
    score = next((entry[key] for key in _SCORE_KEYS if key in entry), None)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise BadData(f"the region has no score ({' or '.join(_SCORE_KEYS)})", "Use --on-top smaller", where=where)
    return float(score)
