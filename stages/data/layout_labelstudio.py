"""Import Label Studio's JSON export."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from stages.data.annotated_images import AnnotatedImage, AnnotatedImages, build_listing, open_images
from stages.data.annotation_classes import add_class_names
from stages.data.annotation_json import draw_ellipse, get_list, read_json, read_numbers, read_points, read_size
from stages.data.brush_runs import decode_brush
from stages.data.folders import has_image_suffix, require_folder
from stages.data.records import Listing
from stages.data.run_lengths import encode_runs
from stages.errors import BadData

_REMEDY = "Export the project from Label Studio as JSON"
# Label Studio puts 8 random characters before the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")


def list_labelstudio(file: Path, *, images: Path | None = None, class_names: Path | None = None,
                     draw_masks: bool = True) -> Listing:
    """List the images of Label Studio's JSON export, which are in `images`, else in the folder of the file.

    Classes are the labels and choices, sorted, or those of `class_names`. Polygons, ellipses and brush strokes make
    masks, later ones on top; rectangles, key points and choices make tags only. Tasks without an annotation, and those
    that were skipped, have unknown tags.
    Raises MissingInput if no image exists, BadData for another export and for tasks with several annotations.
    """
    tasks = _read_tasks(file)
    data = open_images(require_folder(images) if images else file.parent)
    results = [_select_result(task, position, str(file)) for position, task in enumerate(tasks)]
    labels = {label for result in results for region in result or () for label in _read_labels(region, str(file))}
    add_class_names(data.names, class_names, labels, file)
    unused_types = Counter[str]()
    for position, (task, result) in enumerate(zip(tasks, results, strict=True)):
        image = data.add(_find_image(task, position, data, str(file)), str(file))
        image.has_labels = result is not None
        unused_types.update(_add_regions(result or [], image, data, f"task {task.get('id', position)}", str(file)))
    num_unknown = sum(result is None for result in results)
    if num_unknown:
        data.notes.append(f"{num_unknown} of {len(tasks)} tasks have no annotation or were skipped, so their tags are "
                          "unknown.")
    if unused_types:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(unused_types.items()))
        data.notes.append(f"Results that name no class are not used: {counts}.")
    return build_listing(data, file, draw_masks=draw_masks)


def _read_tasks(file: Path) -> list[dict[str, Any]]:
    tasks = read_json(file, _REMEDY)
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        raise BadData("the file is not a list of tasks", _REMEDY, where=str(file))
    for position, task in enumerate(tasks):
        if "annotations" not in task or not isinstance(task.get("data"), dict):
            raise BadData(f"task {position} lacks data or annotations, as in the export JSON-MIN", _REMEDY,
                          where=str(file))
    return tasks


def _select_result(task: dict[str, Any], position: int, where: str) -> list[dict[str, Any]] | None:
    """Return the regions of the annotation of a task, None if it was not annotated."""
    name = f"task {task.get('id', position)}: "
    annotations = [annotation for annotation in get_list(task, "annotations", name, where)
                   if not annotation.get("was_cancelled")]
    preferred = [annotation for annotation in annotations if annotation.get("ground_truth")] or annotations
    if len(preferred) > 1:
        raise BadData(f"{name}there are {len(preferred)} annotations", "Delete all but one of them in Label Studio, or "
                      "mark one as ground truth, and export again", where=where)
    return get_list(preferred[0], "result", f"{name}annotations.", where) if preferred else None


def _read_labels(region: dict[str, Any], where: str) -> list[str]:
    """Return the class names of a region or a choice; () if it names none."""
    value, kind = region.get("value"), region.get("type")
    if not isinstance(value, dict) or not isinstance(kind, str):
        return []
    # A choice about one region describes it, and not the image.
    is_choice = kind == "choices" and not {"x", "points", "rle"} & value.keys()
    labels = value.get(kind) if is_choice or kind.endswith("labels") else None
    if labels is None:
        return []
    if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise BadData(f"the region {region.get('id')} has {str(labels)[:40]} as {kind}", _REMEDY, where=where)
    return labels


def _find_image(task: dict[str, Any], position: int, data: AnnotatedImages, where: str) -> str:
    """Return the path of the image of a task below the folder of the images."""
    values = [value for value in task["data"].values() if isinstance(value, str)]
    addresses = [value for value in values if has_image_suffix(_parse_address(value))]
    address = task["data"].get("image", addresses[0] if len(addresses) == 1 else None)
    if not isinstance(address, str) or not address.strip():
        raise BadData(f"task {task.get('id', position)} has {len(addresses)} images in its data {sorted(task['data'])}",
                      'Use a project with one image per task, under the name "image"', where=where)
    path = _parse_address(address)
    folder, _, name = path.rpartition("/")
    plain = f"{folder}/{_UPLOAD_PREFIX.sub('', name, count=1)}" if _UPLOAD_PREFIX.match(name) else path
    found = data.find_end(path) or data.find_end(plain)
    if found is None:
        return plain.rpartition("/")[2]
    data.num_corrected_paths += found != address
    return found


def _parse_address(address: str) -> str:
    """Return the path in an address such as /data/upload/1/NAME, /data/local-files/?d=NAME or s3://BUCKET/NAME."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    query = parse_qs(parts.query).get("d")
    return query[0] if query else unquote(parts.path).replace("\\", "/")


def _add_regions(regions: list[dict[str, Any]], image: AnnotatedImage, data: AnnotatedImages, task: str,
                 where: str) -> list[str]:
    """Add the regions of a task, then the choices that no region shows; return the types that name no class."""
    unused, choices = [], set[int]()
    for layer, region in enumerate(regions):
        labels = _read_labels(region, where)
        entry = f"{task}: region {region.get('id', layer)} ({', '.join(labels)})"
        class_ids = [data.names.get(label) for label in labels]
        if None in class_ids:
            raise BadData(f"{entry} is not a class of --class-names", "Add it to the file, or correct the label",
                          where=where)
        if region.get("type") == "choices":
            choices |= {class_id for class_id in class_ids if class_id}
        elif len(set(class_ids)) > 1:
            raise BadData(f"{entry} has {len(labels)} labels, but a pixel has one class", "Keep one of them",
                          where=where)
        elif labels:
            outline = _build_region(region, entry, where)
            image.add_object(class_ids[0] or 0, outline, layer=layer, where=entry)
        if not labels:
            unused.append(str(region.get("type")))
    for class_id in sorted(choices - image.class_ids):
        if class_id > 0:
            image.add_object(class_id, None)
    return unused


def _build_region(region: dict[str, Any], entry: str, where: str) -> dict[str, Any] | None:
    """Return the outline of a region, whose coordinates are per cent of the image; None for boxes and points."""
    value = region["value"]
    size = read_size(region.get("original_height"), region.get("original_width"), entry, where)
    if "rle" in value:
        if size is None:
            raise BadData(f"{entry} has no original_width and original_height", _REMEDY, where=where)
        return {"runs": encode_runs(decode_brush(value["rle"], size, f"{where}: {entry}")), "size": size}
    if "points" in value:
        points = read_points(value["points"], f"{entry}.points", where)
        return {"polygons": (points.ravel() / 100,), "is_relative": True, "size": size}
    if "radiusX" in value:
        return _build_ellipse(value, size, entry, where)
    if "imageDataURL" in value:
        raise BadData(f"{entry} is a bitmask, which is not read", "Export the project as COCO, or use brush labels",
                      where=where)
    return None


def _build_ellipse(value: dict[str, Any], size: tuple[int, int] | None, entry: str, where: str) -> dict[str, Any]:
    if size is None:
        raise BadData(f"{entry} has no original_width and original_height", _REMEDY, where=where)
    x, y, radius_x, radius_y, angle = read_numbers(
        [value.get("x"), value.get("y"), value.get("radiusX"), value.get("radiusY"), value.get("rotation") or 0], 5,
        entry, where)
    width, height = size[1] / 100, size[0] / 100
    return {"polygons": (draw_ellipse((x * width, y * height), (radius_x * width, radius_y * height), angle),),
            "size": size}
