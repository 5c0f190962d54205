"""Read and check COCO JSON files; what training does not need of them is dropped while they are parsed."""

from __future__ import annotations

import json
import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.tables import check_text, read_text_file
from stages.errors import BadData

COCO_REMEDY = "Pass an instances or captions file in COCO's format"
REPAIR_REMEDY = "Correct this entry of the JSON file"
# COCO's files have about 30 more numbers per annotation (box, area, key points); they would take most of the memory.
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "caption", "iscrowd", "segmentation", "segments_info", "score")
_ID_KEYS = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}
_TEXT_KEYS = ("file_name", "name", "caption")
_REQUIRED_KEYS = {"images": ("id",), "annotations": ("image_id",), "categories": ("id", "name")}
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)")

Id = int | str


@dataclass(frozen=True)
class CocoFile:
    """A checked COCO file: images and categories by id, and annotations, with comparable ids."""

    path: Path
    images: dict[Id, dict[str, Any]]
    categories: dict[Id, dict[str, Any]]
    annotations: list[dict[str, Any]]
    has_annotations: bool
    notes: tuple[str, ...]


def read_coco_file(path: Path) -> CocoFile:
    """Read a COCO file of instances or captions. Raises BadData that names the entry for anything else."""
    content = _parse(path)
    for kind in _REQUIRED_KEYS:
        if not isinstance(content.get(kind, []), list):
            raise BadData(f'"{kind}" is not a list', COCO_REMEDY, where=str(path))
    annotations = content.get("annotations", [])
    if any(isinstance(entry, dict) and "segments_info" in entry for entry in annotations):
        raise BadData("this is a panoptic file, whose masks are PNG files of segment ids", "Pass the instances file, "
                      "or convert the PNG files to class ids and pass them with --masks DIR", where=str(path))
    num_converted = 0
    for kind, keys in _REQUIRED_KEYS.items():
        for position, entry in enumerate(content.get(kind, [])):
            num_converted += _check_entry(entry, keys, kind, position, path)
    notes = (f'Ids in {path.name} that are written as text or decimals ("1", 1.0) were matched as whole numbers: '
             f"{num_converted}.",) if num_converted else ()
    return CocoFile(path, _collect_by_id(content["images"], "images", path),
                    _collect_by_id(content.get("categories", []), "categories", path), annotations,
                    "annotations" in content, notes)


def parse_segmentation(segmentation: Any, image: dict[str, Any], entry: str, where: str, *,
                       remedy: str) -> dict[str, Any] | None:
    """Return the `polygons`, `runs` and `size` of a shape, or None if an annotation has no segmentation.

    `size` is (H, W) of the RLE, else of the `image` entry, if it has one. Raises BadData with `remedy` for another
    structure.
    """
    if segmentation is None or segmentation in ([], {}, ""):
        return None
    if isinstance(segmentation, list) and all(isinstance(polygon, array) for polygon in segmentation):
        polygons = tuple(np.frombuffer(polygon) for polygon in segmentation if len(polygon))
        return {"polygons": polygons, "size": _read_size(image, where)} if polygons else None
    if isinstance(segmentation, dict):
        return _parse_rle(segmentation, entry, where, remedy)
    raise BadData(f"{entry} has a segmentation that is not a list of polygons: {str(segmentation)[:40]}",
                  remedy, where=where)


def _parse_rle(segmentation: dict[str, Any], entry: str, where: str, remedy: str) -> dict[str, Any]:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise BadData(f"{entry} has an RLE of the size {size!r}, which is not [height, width]", remedy,
                      where=where)
    if isinstance(counts, str):
        return {"runs": counts.encode("utf-8", "surrogatepass"), "size": tuple(size)}
    if isinstance(counts, array):
        return {"runs": np.frombuffer(counts, dtype=f"u{counts.itemsize}"), "size": tuple(size)}
    raise BadData(f"{entry} has an RLE with the counts {str(counts)[:40]}, which are neither whole numbers nor text",
                  remedy, where=where)


def _read_size(image: dict[str, Any], where: str) -> tuple[int, int] | None:
    """Return the (H, W) of an image's entry, None if it has none."""
    sides = [image.get("height"), image.get("width")]
    sides = [int(side) if isinstance(side, float) and side.is_integer() else side for side in sides]
    if not all(sides):
        return None
    if any(type(side) is not int or side < 0 for side in sides):
        raise BadData(f"the image {image['id']} has the height {sides[0]!r} and the width {sides[1]!r}", REPAIR_REMEDY,
                      where=where)
    return sides[0], sides[1]


def name_annotation(position: int, annotation: dict[str, Any]) -> str:
    """Return how messages name an annotation."""
    return f"annotations[{position}]" + (f" (id {annotation['id']})" if "id" in annotation else "")


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text_file(path), object_pairs_hook=_build_entry)
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid JSON ({error})", COCO_REMEDY, where=str(path)) from error
    if isinstance(content, list) and content and isinstance(content[0], dict) and "image_id" in content[0]:
        raise BadData("this is a list of detections (COCO's results format), not a file of instances",
                      f"Import it with `wsss import coco {path} --index INDEX -o RUN`, or pass the instances file",
                      where=str(path))
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise BadData('the file has no list "images"', COCO_REMEDY, where=str(path))
    return content


def _build_entry(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of the file; an annotation keeps only what is used, with its coordinates packed."""
    entry = dict(pairs)
    if len(entry) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {repeated!r} twice")
    if "image_id" not in entry:
        return entry
    annotation = {key: entry[key] for key in _ANNOTATION_KEYS if key in entry}
    if "segmentation" in annotation:
        annotation["segmentation"] = _pack_segmentation(annotation["segmentation"])
    return annotation


def _pack_segmentation(segmentation: Any) -> Any:
    """Return a segmentation with arrays in place of lists of numbers; anything else is left for the checks."""
    try:
        if isinstance(segmentation, list) and all(isinstance(polygon, list) for polygon in segmentation):
            return [array("d", polygon) for polygon in segmentation]
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
            return {**segmentation, "counts": array("I", segmentation["counts"])}
    except (TypeError, OverflowError):
        pass
    return segmentation


def _check_entry(entry: Any, keys: tuple[str, ...], kind: str, position: int, path: Path) -> int:
    """Check the keys, ids and texts of an entry, and make its ids comparable; return how many ids were converted."""
    name = f"{kind}[{position}]"
    if not isinstance(entry, dict):
        raise BadData(f"{name} is {str(entry)[:40]!r}, but must be an object", REPAIR_REMEDY, where=str(path))
    missing = [key for key in keys if key not in entry]
    if missing:
        raise BadData(f"{name} lacks {' and '.join(missing)}", REPAIR_REMEDY, where=str(path))
    num_converted = 0
    for key in _ID_KEYS[kind]:
        if key in entry and not (key == "category_id" and entry[key] is None):
            value = entry[key]
            entry[key] = _normalise_id(value, key, name, path)
            num_converted += type(value) is not type(entry[key])
    for key in _TEXT_KEYS:
        if isinstance(entry.get(key), str):
            check_text(entry[key], f"{name}.{key}", str(path))
    return num_converted


def _normalise_id(value: Any, key: str, name: str, path: Path) -> Id:
    """Return a whole number for 1, 1.0 and "1", and a text for other texts. Raises BadData for other values."""
    if isinstance(value, str):
        return int(value) if _DECIMAL.fullmatch(value) and len(value) < 20 else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadData(f"{name} has {value!r} as {key}, but ids are whole numbers", REPAIR_REMEDY, where=str(path))
    return value


def _collect_by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[Id, dict[str, Any]]:
    """Return the entries by id. Raises BadData for an id that occurs twice."""
    position_by_id: dict[Id, int] = {}
    for position, entry in enumerate(entries):
        first = position_by_id.setdefault(entry["id"], position)
        if first != position:
            raise BadData(f"two {kind} have the id {entry['id']!r} ({kind}[{first}] and {kind}[{position}])",
                          "Remove one of them, or give it an id of its own", where=str(path))
    return {entry["id"]: entry for entry in entries}
