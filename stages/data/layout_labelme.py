"""Import the JSON files of LabelMe, one per image."""

from __future__ import annotations

import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.annotated_images import AnnotatedImage, AnnotatedImages, build_listing, open_images
from stages.data.annotation_classes import add_class_names
from stages.data.annotation_json import decode_base64, get_list, read_json, read_points, read_size
from stages.data.folders import require_folder
from stages.data.images import load_pixels, open_image
from stages.data.labelme_shapes import draw_disc, draw_polygon, enclose
from stages.data.records import Listing
from stages.data.run_lengths import place_bitmap
from stages.data.shapes import IGNORED_ID
from stages.errors import BadData, MissingInput

_REMEDY = "Pass the folder of LabelMe's JSON files"
_OUTLINES = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")
_LINES = ("line", "linestrip", "point", "points")


def list_labelme(folder: Path, *, images: Path | None = None, class_names: Path | None = None,
                 draw_masks: bool = True) -> Listing:
    """List the images of the LabelMe files in `folder` and its sub-folders; `images` is another folder of the images.

    Classes are the labels, sorted, or those of `class_names`. Pixels are those of LabelMe's own masks: later shapes
    cover earlier ones, and rectangles are filled. Flags that are true are tags, if no shape has a label or if they are
    classes.
    Raises MissingInput if there is no file or no image, BadData for other files.
    """
    folder = require_folder(folder)
    files = sorted(path for path in folder.rglob("*.json") if path.is_file())
    contents = [(file, content) for file in files if (content := _read_file(file)) is not None]
    if not contents:
        raise MissingInput("there is no JSON file of LabelMe", _REMEDY, where=str(folder))
    data = open_images(require_folder(images) if images else folder)
    flags = [_read_flags(content, file) for file, content in contents]
    labels = {_read_label(shape, position, file) for file, content in contents
              for position, shape in enumerate(content["shapes"])}
    add_class_names(data.names, class_names, labels or set().union(*flags), folder)
    shape_counts, unused_flags = Counter[str](), set[str]()
    for (file, content), true_flags in zip(contents, flags, strict=True):
        image = data.add(_find_image(content, file, folder, data), str(file))
        shape_counts.update(_add_shapes(content, file, image, data))
        unused_flags |= _add_flags(true_flags, image, data)
    data.notes += _describe(shape_counts, unused_flags, num_other=len(files) - len(contents))
    return build_listing(data, folder, draw_masks=draw_masks)


def _read_file(path: Path) -> dict[str, Any] | None:
    """Return a LabelMe file; None for JSON of another kind, which may lie in the same folder."""
    content = read_json(path, _REMEDY)
    if not isinstance(content, dict) or not {"shapes", "imagePath"} <= content.keys():
        return None
    content["shapes"] = get_list(content, "shapes", "", str(path))
    if not isinstance(content["imagePath"], str) or not content["imagePath"].strip():
        raise BadData(f"imagePath is {content['imagePath']!r}", "Write the name of the image", where=str(path))
    content.pop("imageData", None)  # a copy of the image, several MB
    return content


def _read_flags(content: dict[str, Any], file: Path) -> set[str]:
    """Return the names of the flags of the image that are true."""
    flags = content.get("flags") or {}
    if not isinstance(flags, dict) or not all(isinstance(value, bool) for value in flags.values()):
        raise BadData(f"flags is {str(flags)[:40]}, which is not a map of true and false", "Correct it",
                      where=str(file))
    return {name for name, value in flags.items() if value}


def _read_label(shape: dict[str, Any], position: int, file: Path) -> str:
    label = shape.get("label")
    if not isinstance(label, str) or not label.strip():
        raise BadData(f"shapes[{position}] has the label {label!r}", "Give every shape a label", where=str(file))
    return label


def _find_image(content: dict[str, Any], file: Path, folder: Path, data: AnnotatedImages) -> str:
    """Return the path of the image below the folder of the images.

    `imagePath` is relative to the JSON file, often with the parts of another machine; its longest end that exists is
    used.
    """
    name = content["imagePath"].replace("\\", "/")
    parent = file.parent.relative_to(folder).as_posix()
    relative = posixpath.normpath(posixpath.join(parent, name))
    if data.has_file(relative):
        return relative
    for candidate in (posixpath.join(parent, posixpath.basename(name)), name):
        path = data.find_end(posixpath.normpath(candidate))
        if path is not None:
            data.num_corrected_paths += 1
            return path
    return posixpath.normpath(posixpath.join(parent, posixpath.basename(name)))


def _add_shapes(content: dict[str, Any], file: Path, image: AnnotatedImage, data: AnnotatedImages) -> list[str]:
    """Add the shapes of a file to its image; return their types."""
    where = str(file)
    size = read_size(content.get("imageHeight"), content.get("imageWidth"), "the image", where)
    shape_types = []
    for position, shape in enumerate(content["shapes"]):
        entry = f"shapes[{position}] ({shape['label']})"
        shape_type = shape.get("shape_type") or "polygon"
        if shape_type not in _OUTLINES + _LINES:
            raise BadData(f"{entry} has the type {shape_type!r}", f"Use one of: {', '.join(_OUTLINES + _LINES)}",
                          where=where)
        class_id = data.names.get(shape["label"])
        if class_id is None:
            raise BadData(f"{entry} is not a class of --class-names", "Add it to the file, or correct the label",
                          where=where)
        region = _build_region(shape, shape_type, size, entry, where) if shape_type in _OUTLINES else None
        image.add_object(class_id, region, layer=position, where=f"{file.name}: {entry}")
        shape_types.append(shape_type)
    return shape_types


def _build_region(shape: dict[str, Any], shape_type: str, size: tuple | None, entry: str,
                  where: str) -> dict[str, Any]:
    points = read_points(shape.get("points"), f"{entry}.points", where)
    num_points = {"rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4}.get(shape_type, len(points))
    # Other tools write the four corners of a rectangle.
    if len(points) != num_points and (shape_type, len(points)) != ("rectangle", 4):
        raise BadData(f"{entry} is a {shape_type} of {len(points)} points, but needs {num_points}",
                      "Correct the points, or remove the shape", where=where)
    if shape_type == "mask":
        return _build_mask_region(shape, points, size, entry, where)
    if shape_type == "rectangle" and len(points) == 2:
        return {"polygons": (enclose(points[0], points[1]),), "size": size, "rasteriser": draw_polygon}
    if shape_type == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return {"polygons": (enclose(points[0] - radius, points[0] + radius),), "size": size, "rasteriser": draw_disc}
    return {"polygons": (points.ravel(),), "size": size, "rasteriser": draw_polygon}


def _build_mask_region(shape: dict[str, Any], points: np.ndarray, size: tuple | None, entry: str,
                       where: str) -> dict[str, Any]:
    """Return the pixels of a shape of type mask: a PNG whose upper left pixel is the first point."""
    if size is None:
        raise BadData(f"{entry} is a mask, but imageHeight and imageWidth are missing", "Write the size of the image",
                      where=where)
    data = decode_base64(shape.get("mask"), f"{entry}.mask", where)
    with open_image(data, where=f"{where}: {entry}", max_pixels=size[0] * size[1]) as image:
        bitmap = np.asarray(load_pixels(image, where)).astype(bool)
    if bitmap.ndim != 2:
        raise BadData(f"{entry}.mask is not a PNG of one channel", "Export the annotations again", where=where)
    (left, top), (right, bottom) = points.astype(int)
    if bitmap.shape != (bottom - top + 1, right - left + 1):
        raise BadData(f"{entry}.mask has {bitmap.shape[0]}x{bitmap.shape[1]} pixels, but its points enclose "
                      f"{bottom - top + 1}x{right - left + 1}", "Export the annotations again", where=where)
    return {"runs": place_bitmap(bitmap, int(top), int(left), size, where=f"{where}: {entry}"), "size": size}


def _add_flags(flags: set[str], image: AnnotatedImage, data: AnnotatedImages) -> set[str]:
    """Add the flags that are classes to the tags of an image; return the others."""
    class_ids = {flag: data.names.get(flag) for flag in flags}
    for class_id in class_ids.values():
        if class_id not in (None, 0, IGNORED_ID, *image.class_ids):
            image.add_object(class_id, None)
    return {flag for flag, class_id in class_ids.items() if class_id is None}


def _describe(shape_counts: Counter[str], unused_flags: set[str], num_other: int) -> list[str]:
    notes = []
    if shape_counts["rectangle"]:
        notes.append(f"Rectangles ({shape_counts['rectangle']}) are filled, as in LabelMe. If they are bounding boxes, "
                     "index the tags alone with --no-draw-masks.")
    lines = sum(shape_counts[name] for name in _LINES)
    if lines:
        notes.append(f"Lines and points ({lines}) have no area and make tags only.")
    if unused_flags:
        notes.append(f"Flags that no shape has as its label are not used: {', '.join(sorted(unused_flags)[:5])}.")
    if num_other:
        notes.append(f"Skipped JSON files that are not of LabelMe: {num_other}.")
    return notes
