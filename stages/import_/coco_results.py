"""Read COCO's results format: a list of instances, each with an image, a category, a region and a score."""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.data.name_forms import fold_name
from stages.data.result_files import remove_image_suffix
from stages.data.shapes import Shape, draw_shapes
from stages.errors import BadData
from stages.import_.rle_json import SHAPE_REMEDY, build_shape

Id = int | str
_RESULTS_REMEDY = ('Give a list of {"image_id", "category_id", "segmentation", "score"}, as written for the COCO '
                   "evaluation")
_COCO_DIGITS = 12  # of the numbers in the names of COCO's images


@dataclass
class Results:
    """The instances of each image of the index in order of increasing score, and counts for people.

    `listed_ids` are the images that were predicted although no instance may have been found; None if unknown.
    """

    entries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    listed_ids: set[str] | None = None
    num_instances: int = 0
    num_below_score: int = 0
    unknown_images: list[Id] = field(default_factory=list)


def read_results(content: Any, ids: Sequence[str], classes: Sequence[str], *, min_score: float,
                 images: Mapping[Id, Mapping[str, Any]] | None, categories: Mapping[Id, Mapping[str, Any]] | None,
                 where: str) -> Results:
    """Return the instances with a score of `min_score` or more by image id.

    `images` and `categories` are those of the file of annotations; None if `image_id` is the id in the index and
    `category_id` the class id. Raises BadData for entries that are not results and for unknown categories.
    """
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if not isinstance(content, list):
        raise BadData("the file holds no list of results", _RESULTS_REMEDY, where=where)
    id_by_image = _map_images(ids, images, content)
    class_by_category = {} if categories is None else _map_categories(categories, classes)
    results = Results(num_instances=len(content))
    if images is not None:
        results.listed_ids = set(id_by_image.values())
    entries, unknown = defaultdict(list), {}
    for position, entry in enumerate(content):
        name = f"{where}: results[{position}]"
        image_id, category_id, score = _read_entry(entry, name, has_text_ids=images is None)
        class_id = (_find_class_id(category_id, classes, name) if categories is None
                    else _get_class_id(category_id, class_by_category, categories, classes, name))
        if image_id not in id_by_image:
            unknown[image_id] = None
        elif score < min_score:
            results.num_below_score += 1
        else:
            entries[id_by_image[image_id]].append({"segmentation": entry.get("segmentation"), "class_id": class_id,
                                                   "score": score, "position": position})
    results.entries = {item_id: sorted(group, key=lambda entry: entry["score"]) for item_id, group in entries.items()}
    results.unknown_images = list(unknown)
    return results


def _read_entry(entry: Any, name: str, *, has_text_ids: bool) -> tuple[Id, Id, float]:
    """Return (image id, category id, score) of a result; text is no number with `has_text_ids`. Raises BadData."""
    if not isinstance(entry, dict):
        raise BadData(f"the result is {str(entry)[:40]!r}", _RESULTS_REMEDY, where=name)
    missing = [key for key in ("image_id", "category_id", "score") if entry.get(key) is None]
    if missing == ["score"]:
        raise BadData("the instance has no score, as in ground truth", "Give the results of a network; ground truth is "
                      "read by `wsss index coco`", where=name)
    if missing:
        raise BadData(f"the result lacks {' and '.join(missing)}", _RESULTS_REMEDY, where=name)
    score = entry["score"]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise BadData(f"the score {str(score)[:40]!r} is no number", _RESULTS_REMEDY, where=name)
    image_id = _normalise_id(entry["image_id"], name, is_text=has_text_ids)
    return image_id, _normalise_id(entry["category_id"], name), float(score)


def _normalise_id(value: Any, name: str, *, is_text: bool = False) -> Id:
    """Return a whole number for 1, 1.0 and (unless `is_text`) "1", and other text. Raises BadData for other values."""
    if isinstance(value, str) and not is_text and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BadData(f"{str(value)[:40]!r} is no id", _RESULTS_REMEDY, where=name)
    return value


def _map_images(ids: Sequence[str], images: Mapping[Id, Mapping[str, Any]] | None, content: list[Any]) -> dict[Id, str]:
    """Return the id in the index of each image id of the results, if there is one."""
    known = {name: item_id for item_id in ids for name in (remove_image_suffix(item_id), item_id)}
    if images is not None:
        names = {image_id: str(image.get("file_name", "")) for image_id, image in images.items()}
        return {image_id: known[name] for image_id, file_name in names.items()
                for name in [next((name for name in _list_names(file_name) if name in known), None)] if name}
    image_ids = {entry["image_id"] for entry in content
                 if isinstance(entry, dict) and isinstance(entry.get("image_id"), (int, str, float))}
    candidates = {image_id: (str(image_id), str(image_id).zfill(_COCO_DIGITS)) for image_id in image_ids}
    return {image_id: known[name] for image_id, names in candidates.items()
            for name in [next((name for name in names if name in known), None)] if name}


def _list_names(file_name: str) -> tuple[str, ...]:
    """Return the ids that an image of this file name can have in the index, the most likely first."""
    path = posixpath.normpath(file_name.replace("\\", "/"))
    return posixpath.splitext(path)[0], path, posixpath.splitext(posixpath.basename(path))[0]


def _map_categories(categories: Mapping[Id, Mapping[str, Any]], classes: Sequence[str]) -> dict[Id, int]:
    """Return the class id of each category whose name is a class."""
    class_ids = {fold_name(name): class_id for class_id, name in enumerate(classes) if class_id}
    return {category_id: class_ids[fold_name(name)] for category_id, category in categories.items()
            for name in [" ".join(str(category["name"]).split())] if fold_name(name) in class_ids}


def _get_class_id(category_id: Id, class_by_category: Mapping[Id, int], categories: Mapping[Id, Mapping[str, Any]],
                  classes: Sequence[str], name: str) -> int:
    if category_id in class_by_category:
        return class_by_category[category_id]
    if category_id not in categories:
        raise BadData(f"the category {category_id} is not in the file of annotations",
                      "Give --annotations the file whose categories the network was trained on", where=name)
    raise BadData(f"the category {category_id} ({categories[category_id]['name']}) is no class of the index, whose "
                  f"classes are {', '.join(classes[1:7])}{', ...' if len(classes) > 7 else ''}",
                  "Rename the category in the file of annotations, or remove the results of this category", where=name)


def _find_class_id(category_id: Id, classes: Sequence[str], name: str) -> int:
    if type(category_id) is not int or not 1 <= category_id < len(classes):
        raise BadData(f"the category {category_id} is no class id, which go from 1 to {len(classes) - 1}",
                      "Give the file with the names of the categories as --annotations", where=name)
    return category_id


def draw_results(entries: Sequence[Mapping[str, Any]], source: ImageSource, item_id: str, where: str) -> np.ndarray:
    """Return the mask (H, W) of an image: of overlapping instances the one with the higher score is on top.

    Other pixels are background, or ignored if the data set has none. Raises BadData for an invalid region.
    """
    num_classes = len(source.classes) - 1
    shapes: list[Shape] = []
    for layer, entry in enumerate(entries):
        name = f"{where}: results[{entry['position']}]"
        shapes.append(build_shape(entry["segmentation"], class_id=entry["class_id"], layer=layer, where=name))
    mask = draw_shapes(shapes, source.read_size(item_id), num_classes, remedy=SHAPE_REMEDY)
    if not source.classes[0]:
        mask[mask == 0] = get_ignore_index(num_classes)
    return mask
