"""Import a data set in YOLO's format: one text file of boxes or polygons per image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.annotated_images import AnnotatedImage, AnnotatedImages, build_listing, open_images
from stages.data.annotation_classes import check_distinct_names
from stages.data.folders import find_common_root
from stages.data.records import Listing
from stages.data.tables import read_nonblank_lines
from stages.data.yolo_config import YoloConfig, list_image_files, read_yolo_config, select_split
from stages.errors import BadData, MissingInput

_BOX_FIELDS = 5  # class, x, y, width, height
# YOLO's own reader accepts this much beyond the border.
_TOLERANCE = 0.01


def list_yolo(path: Path, *, split: str = "", draw_masks: bool = True) -> Listing:
    """List the images of a YOLO data set: `path` is data.yaml, or the folder of the data set.

    Class number n is class id n + 1. The labels of an image are in the file of its name in the folder `labels`; without
    a file it has no object, as in YOLO. Polygons make masks, smaller ones on top of larger ones; boxes make tags only.
    Raises UsageError if there are splits and none is chosen, MissingInput for missing images or labels, BadData for
    other lines.
    """
    config = read_yolo_config(path)
    sources = select_split(config, split)
    files = [file for source in sources for file in list_image_files(source, config.where)]
    if not files:
        raise MissingInput("there is no image", "Check the paths of the images", where=str(sources[0]))
    data = open_images(find_common_root(*(file.parent for file in files)))
    class_ids = _add_names(config, data)
    num_labelled, corner_counts = 0, set[int]()
    for file in files:
        image = data.add(Path(os.path.relpath(file, data.folder)).as_posix(), str(config.where))
        label_file = _find_label_file(file)
        if label_file.is_file():
            num_labelled += 1
            corner_counts |= _add_labels(label_file, image, class_ids, config)
    _check_label_files(num_labelled, files, data)
    if corner_counts == {4}:
        data.notes.append("All outlines have four corners. If they are boxes that were turned (OBB), index the tags "
                          "alone with --no-draw-masks.")
    return build_listing(data, config.where, draw_masks=draw_masks)


def _add_names(config: YoloConfig, data: AnnotatedImages) -> list[int]:
    """Return the class ids by class number."""
    where = str(config.where)
    class_ids = [data.names.add(name, f"names[{number}]", where) for number, name in enumerate(config.names)]
    check_distinct_names(config.names, "names", where)
    return class_ids


def _find_label_file(image: Path) -> Path:
    """Return the file of an image's labels: the last folder `images` of its path becomes `labels`."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        position = len(parts) - 2 - parts[-2::-1].index("images")
        parts[position] = "labels"
    return Path(*parts).with_suffix(".txt")


def _check_label_files(num_labelled: int, files: list[Path], data: AnnotatedImages) -> None:
    if not num_labelled:
        raise MissingInput(f"none of the {len(files)} images has a file of labels (for example {files[0].name})",
                           "Put the labels into a folder labels next to the folder images",
                           where=str(_find_label_file(files[0])))
    if num_labelled < len(files):
        data.notes.append(f"{len(files) - num_labelled} of {len(files)} images have no file of labels, which means in "
                          "YOLO's format that they show no object.")


def _add_labels(file: Path, image: AnnotatedImage, class_ids: list[int], config: YoloConfig) -> set[int]:
    """Add the objects of a file of labels; return the numbers of corners of its polygons."""
    corner_counts = set()
    for line, text in read_nonblank_lines(file):
        where = f"{file.parent.name}/{file.name}:{line}"
        class_id, values = _parse_line(text, class_ids, where)
        # Key points follow the box.
        values = values[:_BOX_FIELDS - 1] if config.has_keypoints else values
        _check_fractions(values, where)
        region: dict[str, Any] | None = None
        if values.size != _BOX_FIELDS - 1:
            if values.size < 6 or values.size % 2:
                raise BadData(f"the line has {values.size + 1} numbers, but a box has 5, and a polygon has a class and "
                              "at least 3 pairs of x and y", "Export the labels again", where=where)
            region = {"polygons": (values,), "is_relative": True}
            corner_counts.add(values.size // 2)
        image.add_object(class_id, region, where=where)
    return corner_counts


def _parse_line(text: str, class_ids: list[int], where: str) -> tuple[int, np.ndarray]:
    """Return the class id and the other numbers of a line. Raises BadData for another line."""
    try:
        number, *values = [float(word) for word in text.split()]
    except ValueError:
        raise BadData(f"the line {text[:40]!r} has a word that is not a number", "Export the labels again",
                      where=where) from None
    if number not in range(len(class_ids)):
        raise BadData(f"the class number is {number:g}, but the classes are 0 to {len(class_ids) - 1}",
                      "Correct the line, or add the class to the names", where=where)
    return class_ids[int(number)], np.array(values)


def _check_fractions(values: np.ndarray, where: str) -> None:
    is_inside = (values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE)
    if not is_inside.all():
        raise BadData(f"the coordinate {values[~is_inside][0]:g} is not between 0 and 1",
                      "YOLO's coordinates are fractions of the image's width and height; divide pixels by them",
                      where=where)
