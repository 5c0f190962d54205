"""Import a data set of image classification: one folder per class."""

from __future__ import annotations

import posixpath
from pathlib import Path

from stages.data.class_names import read_class_list
from stages.data.folders import find_common_root, has_image_suffix, require_folder, walk_files
from stages.data.records import ImageRecord, Listing, describe_count, infer_supervision, resolve_class_ids
from stages.data.tables import check_id
from stages.data.tag_classes import collect_class_names
from stages.data.tag_parsing import TagParser
from stages.errors import BadData, MissingInput


def list_folder(folder: Path, *, class_names: Path | None = None,
                classes: tuple[str, ...] | None = None) -> Listing:
    """List the images of `folder`, whose sub-folders are classes with one image per file, at any depth.

    An id is the path below `folder` without suffix, so the same file name in two classes is two images. A sub-folder
    named background, void or the like contains images known to have no class; images directly in `folder` have unknown
    tags.
    The class names are those of the file `class_names`, or `classes` (position 0: the background), else the
    sub-folders, sorted.
    Raises MissingInput if the folder is missing or has no image, BadData if a sub-folder is not a class or two images
    have the same id.
    """
    folder = require_folder(folder)
    paths, link_notes = _find_images(folder)
    if not paths:
        raise MissingInput("there is no image in this folder", "Pass a folder with one sub-folder per class",
                           where=str(folder))
    sub_folders = {path.split("/")[0] for path in paths if "/" in path}
    notes: tuple[str, ...] = ()
    if class_names:
        class_list = read_class_list(class_names)
        classes, notes = class_list.names, class_list.notes
    elif classes is None:
        classes, notes = collect_class_names([([name], str(folder / name)) for name in sorted(sub_folders)])
    parser = TagParser(classes)
    records: dict[str, ImageRecord] = {}
    for path in paths:
        image_id = check_id(posixpath.splitext(path)[0], str(folder / path))
        if image_id in records:
            raise BadData(f"{records[image_id].path} and {path} have the same id {image_id!r}", "Rename one of them",
                          where=str(folder))
        records[image_id] = ImageRecord(image_id, path, _resolve_labels(path, classes, folder, parser))
    num_unknown = sum(record.labels is None for record in records.values())
    notes += parser.list_notes() + link_notes
    notes += describe_count(num_unknown, len(records), "are in no sub-folder of a class, so their tags are unknown")
    return Listing(find_common_root(folder), classes, tuple(records.values()), notes,
                   infer_supervision(records.values()))


def _find_images(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the sorted paths of the images, and a note on links that lead to a folder that was read already."""
    linked_twice: list[Path] = []
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    paths = [path.name for path in visible if path.is_file()]
    # Two classes may share a linked folder, so each is searched by itself.
    for sub_folder in visible:
        if sub_folder.is_dir():
            paths += [f"{sub_folder.name}/{path}" for path in walk_files(sub_folder, linked_twice)]
    notes = ()
    if linked_twice:
        notes = (f"Skipping {len(linked_twice)} link{'s' if len(linked_twice) > 1 else ''} to a folder that was read "
                 f"already, such as {linked_twice[0]}.",)
    return sorted(path for path in paths if has_image_suffix(path)), notes


def _resolve_labels(path: str, classes: tuple[str, ...], folder: Path, parser: TagParser) -> tuple[int, ...] | None:
    """Return the labels of an image by its sub-folder; None (unknown) if it is in none."""
    name, separator, _ = path.partition("/")
    if not separator:
        return None
    class_name = parser.parse_name(name)
    return resolve_class_ids([] if class_name is None else [class_name], classes, str(folder / name))
