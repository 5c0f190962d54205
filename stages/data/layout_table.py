"""Import a folder of images with a table of tags."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from stages.data.folders import (
    MASK_SUFFIXES,
    FileFinder,
    find_common_root,
    read_labels_from_masks,
    require_folder,
    resolve_inside_root,
)
from stages.data.records import (
    LABELS_FROM_MASKS_NOTE,
    ImageRecord,
    Listing,
    TableEntry,
    collect_table_entries,
    describe_classes,
    describe_count,
    infer_supervision,
    resolve_class_ids,
)
from stages.data.tables import TAG_COLUMNS, TableRow, read_class_names, read_table, split_tags
from stages.errors import MissingInput


def list_table(
    table: Path,
    *,
    images: Path,
    masks: Path | None = None,
    class_names: Path | None = None,
    classes: tuple[str, ...] | None = None,
    labels_from_masks: bool = False,
    require_images: bool = True,
) -> Listing:
    """List the images of a table (CSV, TSV or JSONL), which are below `images`.

    Ids come from column `id`, else from `path` without its suffix. The file of an image is that of `path`, else the id
    with a known suffix in upper or lower case. Masks are the files of the ids below `masks`. The class
    names are those of the file `class_names`, or `classes` (position 0: the background), else the tags of the table,
    sorted, with a background. `require_images` False is for using the tags alone:
    images may then be anywhere or missing.
    Raises MissingInput for a missing file or folder and if no image or no mask exists, BadData for repeated ids,
    paths outside `images`, and tags that are not classes.
    """
    table, images = Path(table), require_folder(images)
    rows = read_table(table)
    is_inferred = class_names is None and classes is None
    classes = read_class_names(class_names)[0] if class_names else classes or _infer_classes(rows)
    ids = [_read_id(row, images, table) for row in rows]
    entries = collect_table_entries(rows, ids, classes, table)
    root = find_common_root(images, require_folder(masks)) if masks else find_common_root(images)
    paths, num_missing = _find_paths(rows, ids, images, root, table)
    if require_images and num_missing == len(entries):
        raise MissingInput(f"none of the {len(entries)} images exists in this folder",
                           f"Check --images and the ids in {table.name}", where=str(images))
    find_mask = FileFinder(masks, root, MASK_SUFFIXES).find if masks else lambda _: None
    records: Sequence[ImageRecord] = [
        ImageRecord(image_id, paths[image_id], _resolve_labels(entry, classes, table), find_mask(image_id),
                    entry.captions)
        for image_id, entry in entries.items()
    ]
    if masks and not any(record.mask_path for record in records):
        raise MissingInput(f"none of the {len(records)} images has a mask in this folder", "Check --masks",
                           where=str(masks))
    notes = describe_classes(classes, records) if is_inferred and len(classes) > 1 else ()
    if labels_from_masks:
        records, mask_notes = read_labels_from_masks(records, root, len(classes) - 1)
        notes += (*mask_notes, LABELS_FROM_MASKS_NOTE)
    total = len(records)
    notes += describe_count(sum(record.labels is None for record in records), total, "have no tags (unknown)")
    notes += describe_count(num_missing, total, "do not exist") if require_images else ()
    if masks:
        notes += describe_count(sum(record.mask_path is None for record in records), total, "have no mask")
    supervision = infer_supervision(records, from_masks=labels_from_masks)
    return Listing(root, classes, tuple(records), notes, supervision)


def _read_id(row: TableRow, images: Path, table: Path) -> str:
    if "id" in row.fields:
        return str(row.fields["id"])
    return posixpath.splitext(resolve_inside_root(str(row.fields["path"]), images, f"{table}:{row.line}"))[0]


def _infer_classes(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Return the distinct tags of a table, sorted, behind a background."""
    cells = [cell for row in rows if (cell := row.get_cell(TAG_COLUMNS)) is not None]
    # A name between separators in one row may contain blanks, and be the only tag of another row.
    separated = [split_tags(cell) for cell in cells if isinstance(cell, list) or any(mark in cell for mark in ";|,")]
    names = {tag for tags in separated for tag in tags}
    names |= {tag for cell in cells for tag in split_tags(cell, tuple(names))}
    return ("background", *sorted(names - {"background"}))


def _resolve_labels(entry: TableEntry, classes: tuple[str, ...], table: Path) -> tuple[int, ...] | None:
    return None if entry.tags is None else resolve_class_ids(entry.tags, classes, f"{table}:{entry.line}")


def _find_paths(
    rows: Sequence[TableRow], ids: Sequence[str], images: Path, root: Path, table: Path
) -> tuple[dict[str, str], int]:
    """Return the path of each image, relative to the root, by id, and how many images do not exist."""
    finder = FileFinder(images, root)
    paths: dict[str, str] = {}
    num_missing = 0
    for row, image_id in zip(rows, ids, strict=True):
        if image_id in paths:
            continue
        if "path" in row.fields:
            path = resolve_inside_root(str(row.fields["path"]), images, f"{table}:{row.line}")
            exists = (images / path).is_file()
            paths[image_id] = finder.relative_to_root(path)
        else:
            file = finder.find(image_id)
            exists = file is not None
            paths[image_id] = file or finder.relative_to_root(f"{image_id}.jpg")
        num_missing += not exists
    return paths, num_missing
