"""Importer of a folder per class, as image classification keeps its data."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from stages.data.folders import common_root, existing_folder, is_image
from stages.data.records import Listing, Record, class_ids, counted, supervision_of
from stages.data.tables import BACKGROUND_NAMES, check_id, read_class_names
from stages.errors import BadData, MissingInput


def list_folder(folder: Path, *, class_names: Path | None = None) -> Listing:
    """Return the listing of `folder`, whose sub-folders are classes and hold one image per file, at any depth.

    An id is the path below `folder` without suffix, so one file name in two classes is two images. A sub-folder
    named background or void holds images known to have no class; images beside the sub-folders have unknown
    tags. Without `class_names` the classes are the sub-folders, sorted.
    Raises MissingInput for a missing folder and when it holds no image, BadData for a sub-folder that is no class
    and for two images of one id.
    """
    folder = existing_folder(folder)
    found = sorted(_images(folder))
    if not found:
        raise MissingInput("no image in it", "give the folder that holds one folder per class", where=str(folder))
    inside = {path.split("/")[0] for path in found if "/" in path}
    named = sorted(name for name in inside if name.lower() not in BACKGROUND_NAMES)
    classes = read_class_names(class_names)[0] if class_names else ("background", *named)
    records: dict[str, Record] = {}
    for path in found:
        name = check_id(posixpath.splitext(path)[0], str(folder / path))
        if name in records:
            raise BadData(
                f"{records[name].path} and {path} have the same id {name!r}", "rename one", where=str(folder)
            )
        records[name] = Record(name, path, _labels(path, classes, folder))
    unknown = sum(record.labels is None for record in records.values())
    notes = counted(unknown, len(records), "lie beside the folders of classes: their tags are unknown")
    return Listing(common_root(folder), classes, tuple(records.values()), notes, supervision_of(records.values()))


def _images(folder: Path) -> Iterator[str]:
    # Links to files and class folders are followed, deeper links are not, so that no loop can catch us.
    tops = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    for top in tops:
        for place, below_it, files in os.walk(top):
            below_it[:] = [] if top == folder else sorted(name for name in below_it if not name.startswith("."))
            for file in files:
                if is_image(file) and not file.startswith("."):
                    yield (Path(place) / file).relative_to(folder).as_posix()


def _labels(path: str, classes: tuple[str, ...], folder: Path) -> tuple[int, ...] | None:
    name, inside, _ = path.partition("/")
    if not inside:
        return None
    return () if name.lower() in BACKGROUND_NAMES else class_ids([name], classes, str(folder / name))
