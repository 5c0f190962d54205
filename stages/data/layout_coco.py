"""Importer of COCO's JSON files: instances (categories per image) and captions."""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from pathlib import Path
from typing import Any

from stages.data.folders import MASK_SUFFIXES, FileFinder, below, common_root, existing_folder
from stages.data.records import Listing, Record, counted, supervision_of
from stages.data.tables import check_id, check_text, read_text
from stages.errors import BadData, MissingInput

_IDS = {"id", "image_id", "category_id"}
_TEXTS = ("file_name", "name", "caption")


def list_coco(annotations: Path, *, images: Path, captions: Path | None = None, masks: Path | None = None) -> Listing:
    """Return the listing of a COCO JSON file whose images lie below `images`.

    Categories become classes 1..C in the order of their ids; labels are the categories of an image's
    annotations, crowds too, and an image without any is known to have none. A captions file gives captions and
    leaves the labels unknown; `captions` adds one to an instances file. Ids are file names without suffix. `masks`
    is the folder of the ground truth, a picture of class ids 1..C for each image, named as the image.
    Raises MissingInput for a missing file or folder and when no image or no mask is there, BadData for other JSON
    and for annotations of images or categories that the file doesn't list.
    """
    content, images = _read(annotations), existing_folder(images)
    root = common_root(images, *([existing_folder(masks)] if masks else []))
    categories = sorted(content.get("categories", []), key=lambda one: (isinstance(one["id"], str), one["id"]))
    classes = ("background", *_names(categories, annotations))
    ids = {one["id"]: position for position, one in enumerate(categories, 1)}
    labels = _labels(content, ids, annotations) if categories else {}
    texts = _captions(content, annotations)
    if captions is not None:
        for image, more in _captions(_read(captions), captions).items():
            texts[image] = texts.get(image, ()) + more
    finder = FileFinder(images, root)
    truth = FileFinder(masks, root, MASK_SUFFIXES) if masks else None
    records, missing = [], 0
    for image in content["images"]:
        path = below(str(image["file_name"]), images, str(annotations))
        missing += finder.find(path) is None
        known = tuple(sorted(labels.get(image["id"], ()))) if categories else None
        name = check_id(posixpath.splitext(path)[0], str(annotations))
        mask = truth.find(name) if truth else None
        records.append(Record(name, finder.place(path), known, mask, texts.get(image["id"], ())))
    _check(records, missing, annotations, images)
    if masks is not None and not any(record.mask_path for record in records):
        raise MissingInput(f"no mask of {len(records)} images is there", "check --masks", where=str(masks))
    notes = counted(missing, len(records), "are not there")
    if masks is not None:
        notes += counted(sum(record.mask_path is None for record in records), len(records), "have no mask")
    empty = sum(one.labels == () for one in records)
    notes += counted(empty, len(records), "have no annotation: known to have no class")
    return Listing(root, classes, tuple(records), notes, supervision_of(records))


def _names(categories: list[dict[str, Any]], annotations: Path) -> list[str]:
    """Return the names of the classes. Raises BadData for empty and equal ones, and for one that is the background."""
    names = [str(one["name"]) for one in categories]
    for position, name in enumerate(names):
        if not name.strip() or name in ("background", *names[:position]):
            raise BadData(f"categories[{position}] is named {name!r}, which is empty or there already",
                          "give each category a name of its own, and none to the background", where=str(annotations))
    return names


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise BadData(f"not JSON ({error})", where=str(path)) from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise BadData('no list "images" in it', "give a COCO instances or captions file", where=str(path))
    wanted = {"images": {"id", "file_name"}, "annotations": {"image_id"}, "categories": {"id", "name"}}
    for kind, keys in wanted.items():
        if not isinstance(content.get(kind, []), list):
            raise BadData(f'"{kind}" in it is no list', "give a COCO instances or captions file", where=str(path))
        for position, one in enumerate(content.get(kind, [])):
            if not isinstance(one, dict) or not keys <= one.keys():
                raise BadData(f"{kind}[{position}] lacks {' or '.join(sorted(keys))}", where=str(path))
            for key in _IDS & one.keys():
                if not isinstance(one[key], (int, float, str)):
                    raise BadData(f"{kind}[{position}] has {one[key]!r} as {key}", "ids are numbers", where=str(path))
            for key in _TEXTS:
                if isinstance(one.get(key), str):
                    check_text(one[key], f"{kind}[{position}].{key}", str(path))
    return content


def _labels(content: dict[str, Any], ids: dict[Any, int], path: Path) -> dict[Any, set[int]]:
    listed = {image["id"] for image in content["images"]}
    labels: dict[Any, set[int]] = defaultdict(set)
    for one in content.get("annotations", []):
        if one["image_id"] not in listed:
            raise BadData(f"annotation of image {one['image_id']}, which is not listed", where=str(path))
        if "category_id" not in one:
            continue
        if one["category_id"] not in ids:
            raise BadData(f"annotation of category {one['category_id']}, which is not listed", where=str(path))
        labels[one["image_id"]].add(ids[one["category_id"]])
    return labels


def _captions(content: dict[str, Any], path: Path) -> dict[Any, tuple[str, ...]]:
    texts: dict[Any, list[str]] = defaultdict(list)
    for one in content.get("annotations", []):
        if isinstance(one.get("caption"), str) and one["caption"].strip():
            texts[one["image_id"]].append(" ".join(one["caption"].split()))
    return {image: tuple(lines) for image, lines in texts.items()}


def _check(records: list[Record], missing: int, annotations: Path, images: Path) -> None:
    if not records:
        raise MissingInput("lists no images", where=str(annotations))
    if missing == len(records):
        raise MissingInput(f"none of {missing} images is there", "check --images", where=str(images))
    first: set[str] = set()
    for record in records:
        if record.id in first:
            raise BadData(f"two images have the id {record.id!r}", "file names must differ", where=str(annotations))
        first.add(record.id)
