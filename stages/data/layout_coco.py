"""Import COCO's JSON files: instances (categories per image) and captions."""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from pathlib import Path
from typing import Any

from stages.data.folders import MASK_SUFFIXES, FileFinder, find_common_root, require_folder, resolve_inside_root
from stages.data.records import ImageRecord, Listing, describe_count, infer_supervision
from stages.data.tables import check_id, check_text, read_text_file
from stages.errors import BadData, MissingInput

_ID_KEYS = {"id", "image_id", "category_id"}
_TEXT_KEYS = ("file_name", "name", "caption")
_REQUIRED_KEYS = {"images": {"id", "file_name"}, "annotations": {"image_id"}, "categories": {"id", "name"}}
_COCO_REMEDY = "Pass an instances or captions file in COCO's format"
_REPAIR_REMEDY = "Correct this entry of the JSON file"


def list_coco(annotations: Path, *, images: Path, captions: Path | None = None, masks: Path | None = None) -> Listing:
    """List the images of a COCO JSON file, which are below `images`.

    Categories become classes 1..C in the order of their ids. Labels are the categories of an image's annotations,
    crowds too; an image without annotations is known to have no class. A captions file has captions and leaves the
    labels unknown; `captions` adds one to an instances file. Ids are file names without suffix. `masks` is the folder
    of the ground truth, with a mask of class ids 1..C per image, named as the image.
    Raises MissingInput for a missing file or folder and if no image or no mask exists, BadData for other JSON and for
    annotations of images or categories that the file does not list.
    """
    content, images = _read_json(annotations), require_folder(images)
    root = find_common_root(images, *([require_folder(masks)] if masks else []))
    categories = sorted(content.get("categories", []), key=lambda category: (isinstance(category["id"], str),
                                                                             category["id"]))
    classes = ("background", *_read_class_names(categories, annotations))
    class_ids = {category["id"]: class_id for class_id, category in enumerate(categories, 1)}
    labels = _collect_labels(content, class_ids, annotations) if categories else {}
    texts = _collect_captions(content)
    if captions is not None:
        for image_id, more_texts in _collect_captions(_read_json(captions)).items():
            texts[image_id] = texts.get(image_id, ()) + more_texts
    finder = FileFinder(images, root)
    mask_finder = FileFinder(masks, root, MASK_SUFFIXES) if masks else None
    records, num_missing = [], 0
    for image in content["images"]:
        path = resolve_inside_root(str(image["file_name"]), images, str(annotations))
        num_missing += finder.find(path) is None
        image_labels = tuple(sorted(labels.get(image["id"], ()))) if categories else None
        name = check_id(posixpath.splitext(path)[0], str(annotations))
        mask = mask_finder.find(name) if mask_finder else None
        records.append(ImageRecord(name, finder.relative_to_root(path), image_labels, mask,
                                   texts.get(image["id"], ())))
    _check_records(records, num_missing, annotations, images)
    if masks is not None and not any(record.mask_path for record in records):
        raise MissingInput(f"none of the {len(records)} images has a mask in this folder", "Check --masks",
                           where=str(masks))
    notes = describe_count(num_missing, len(records), "do not exist")
    if masks is not None:
        notes += describe_count(sum(record.mask_path is None for record in records), len(records), "have no mask")
    num_empty = sum(record.labels == () for record in records)
    notes += describe_count(num_empty, len(records), "have no annotation, so they are known to have no class")
    return Listing(root, classes, tuple(records), notes, infer_supervision(records))


def _read_class_names(categories: list[dict[str, Any]], annotations: Path) -> list[str]:
    """Return the class names. Raises BadData for an empty or repeated name and for "background"."""
    names = [str(category["name"]) for category in categories]
    for position, name in enumerate(names):
        if not name.strip() or name in ("background", *names[:position]):
            raise BadData(f"categories[{position}] has the name {name!r}, which is empty or already in use",
                          "Give every category a name of its own, other than background", where=str(annotations))
    return names


def _read_json(path: Path) -> dict[str, Any]:
    """Read and check a COCO JSON file."""
    try:
        content = json.loads(read_text_file(path))
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid JSON ({error})", _COCO_REMEDY, where=str(path)) from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise BadData('the file has no list "images"', _COCO_REMEDY, where=str(path))
    for kind, keys in _REQUIRED_KEYS.items():
        if not isinstance(content.get(kind, []), list):
            raise BadData(f'"{kind}" is not a list', _COCO_REMEDY, where=str(path))
        for position, entry in enumerate(content.get(kind, [])):
            _check_entry(entry, keys, f"{kind}[{position}]", path)
    return content


def _check_entry(entry: Any, keys: set[str], name: str, path: Path) -> None:
    """Check the keys, ids and texts of one image, annotation or category."""
    if not isinstance(entry, dict) or not keys <= entry.keys():
        raise BadData(f"{name} lacks {' or '.join(sorted(keys))}", _REPAIR_REMEDY, where=str(path))
    for key in _ID_KEYS & entry.keys():
        if not isinstance(entry[key], (int, float, str)):
            raise BadData(f"{name} has {entry[key]!r} as {key}, but ids are numbers", _REPAIR_REMEDY, where=str(path))
    for key in _TEXT_KEYS:
        if isinstance(entry.get(key), str):
            check_text(entry[key], f"{name}.{key}", str(path))


def _collect_labels(content: dict[str, Any], class_ids: dict[Any, int], path: Path) -> dict[Any, set[int]]:
    """Return the class ids of the annotations by image id."""
    image_ids = {image["id"] for image in content["images"]}
    labels: dict[Any, set[int]] = defaultdict(set)
    for annotation in content.get("annotations", []):
        image_id = annotation["image_id"]
        if image_id not in image_ids:
            raise BadData(f'there is an annotation of image {image_id}, which is not in "images"', _REPAIR_REMEDY,
                          where=str(path))
        if "category_id" not in annotation:
            continue
        category_id = annotation["category_id"]
        if category_id not in class_ids:
            raise BadData(f'there is an annotation of category {category_id}, which is not in "categories"',
                          _REPAIR_REMEDY, where=str(path))
        labels[image_id].add(class_ids[category_id])
    return labels


def _collect_captions(content: dict[str, Any]) -> dict[Any, tuple[str, ...]]:
    """Return the captions by image id, with single blanks."""
    texts: dict[Any, list[str]] = defaultdict(list)
    for annotation in content.get("annotations", []):
        if isinstance(annotation.get("caption"), str) and annotation["caption"].strip():
            texts[annotation["image_id"]].append(" ".join(annotation["caption"].split()))
    return {image_id: tuple(captions) for image_id, captions in texts.items()}


def _check_records(records: list[ImageRecord], num_missing: int, annotations: Path, images: Path) -> None:
    if not records:
        raise MissingInput("the file lists no images", _COCO_REMEDY, where=str(annotations))
    if num_missing == len(records):
        raise MissingInput(f"none of the {num_missing} images exists in this folder", "Check --images",
                           where=str(images))
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise BadData(f"two images have the id {record.id!r}", "Rename one: ids are file names without suffix",
                          where=str(annotations))
        ids.add(record.id)
