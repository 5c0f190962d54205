"""Read the regions in JSON files of other tools: COCO's RLE, compressed or as a list, polygons, and plain bitmaps."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from stages.data.shapes import Shape
from stages.errors import BadData

# What to do about an object that can't be drawn.
SHAPE_REMEDY = "Correct this entry, or remove it"
_REMEDY = ('Write the segmentation as RLE {"size": [height, width], "counts": ...} or as polygons '
           "[[x1, y1, x2, y2, ...]]")


def parse_json(data: bytes, where: str) -> Any:
    """Return the contents of a JSON file. Raises BadData."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid JSON ({error})", "Write the file again", where=where) from None


def build_shape(segmentation: Any, *, class_id: int, layer: int, where: str) -> Shape:
    """Return the shape of a segmentation: RLE, polygons, or rows of 0 and 1. Raises BadData for anything else."""
    if isinstance(segmentation, dict):
        runs, size = _parse_counts(segmentation.get("counts"), where), segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
            raise BadData(f"the RLE has the size {str(size)[:40]}, which is not [height, width]", _REMEDY, where=where)
        return Shape(class_id, runs=runs, size=(size[0], size[1]), layer=layer, where=where)
    if isinstance(segmentation, list) and segmentation and all(isinstance(part, list) for part in segmentation):
        polygons = tuple(_convert_numbers(part, where) for part in segmentation)
        return Shape(class_id, polygons, layer=layer, where=where)
    if segmentation in (None, [], {}):
        raise BadData("there is no segmentation, only a box or nothing",
                      "Use the results of instance segmentation ('segm'), not of detection ('bbox')", where=where)
    raise BadData(f"the segmentation {str(segmentation)[:40]!r} is neither RLE nor polygons", _REMEDY, where=where)


def _parse_counts(counts: Any, where: str) -> np.ndarray | bytes:
    if isinstance(counts, str) and counts.isascii():
        return counts.encode()
    if isinstance(counts, list) and all(type(length) is int and 0 <= length < 1 << 31 for length in counts):
        return np.array(counts, np.int64)
    raise BadData(f"the RLE has the counts {str(counts)[:40]!r}, which are neither whole numbers nor text", _REMEDY,
                  where=where)


def _convert_numbers(values: list[Any], where: str) -> np.ndarray:
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
               for value in values):
        raise BadData(f"a polygon has coordinates that are no numbers ({str(values)[:40]})", _REMEDY, where=where)
    return np.array(values, np.float64)
