"""Import a data set of image classification: one folder per class."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from stages.data.folders import find_common_root, has_image_suffix, require_folder
from stages.data.records import ImageRecord, Listing, describe_count, infer_supervision, resolve_class_ids
from stages.data.tables import BACKGROUND_NAMES, check_id, read_class_names
from stages.errors import BadData, MissingInput


def list_folder(folder: Path, *, class_names: Path | None = None,
                classes: tuple[str, ...] | None = None) -> Listing:
    """List the images of `folder`, whose sub-folders are classes with one image per file, at any depth.

    An id is the path below `folder` without suffix, so the same file name in two classes is two images. A sub-folder
    named background or void contains images known to have no class; images directly in `folder` have unknown tags.
    The class names are those of the file `class_names`, or `classes` (position 0: the background), else the
    sub-folders, sorted.
    Raises MissingInput if the folder is missing or has no image, BadData if a sub-folder is not a class or two images
    have the same id.
    """
    folder = require_folder(folder)
    paths = sorted(_find_images(folder))
    if not paths:
        raise MissingInput("there is no image in this folder", "Pass a folder with one sub-folder per class",
                           where=str(folder))
    sub_folders = {path.split("/")[0] for path in paths if "/" in path}
    folder_classes = sorted(name for name in sub_folders if name.lower() not in BACKGROUND_NAMES)
    classes = read_class_names(class_names)[0] if class_names else classes or ("background", *folder_classes)
    records: dict[str, ImageRecord] = {}
    for path in paths:
        image_id = check_id(posixpath.splitext(path)[0], str(folder / path))
        if image_id in records:
            raise BadData(f"{records[image_id].path} and {path} have the same id {image_id!r}", "Rename one of them",
                          where=str(folder))
        records[image_id] = ImageRecord(image_id, path, _resolve_labels(path, classes, folder))
    num_unknown = sum(record.labels is None for record in records.values())
    notes = describe_count(num_unknown, len(records), "are in no sub-folder of a class, so their tags are unknown")
    return Listing(find_common_root(folder), classes, tuple(records.values()), notes,
                   infer_supervision(records.values()))


def _find_images(folder: Path) -> Iterator[str]:
    # Links to files and class folders are followed; links further down are not, to avoid endless loops.
    tops = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    for top in tops:
        for parent, sub_folders, files in os.walk(top):
            sub_folders[:] = [] if top == folder else sorted(name for name in sub_folders if not name.startswith("."))
            for file in files:
                if has_image_suffix(file) and not file.startswith("."):
                    yield (Path(parent) / file).relative_to(folder).as_posix()


def _resolve_labels(path: str, classes: tuple[str, ...], folder: Path) -> tuple[int, ...] | None:
    """Return the labels of an image by its sub-folder; None (unknown) if it is in none."""
    name, separator, _ = path.partition("/")
    if not separator:
        return None
    return () if name.lower() in BACKGROUND_NAMES else resolve_class_ids([name], classes, str(folder / name))
