"""Importer of a folder of images with a table of tags beside it."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from stages.data.folders import (
    MASK_SUFFIXES,
    FileFinder,
    below,
    common_root,
    existing_folder,
    with_labels_of_masks,
)
from stages.data.records import Known, Listing, Record, class_ids, collect, counted, supervision_of
from stages.data.tables import TAG_COLUMNS, Row, read_class_names, read_table, split_tags
from stages.errors import MissingInput


def list_table(
    table: Path,
    *,
    images: Path,
    masks: Path | None = None,
    class_names: Path | None = None,
    labels_from_masks: bool = False,
    images_needed: bool = True,
) -> Listing:
    """Return the listing of a table (CSV, TSV or JSONL) whose images lie below `images`.

    Ids come from column `id`, else from `path` without its suffix. The file is that of `path`, else the id
    with a known suffix in any case. Masks are the id's files below `masks`. Without `class_names` the classes
    are the table's own tags, sorted, with a background. `images_needed` False is for tags alone: images may then
    be anywhere or nowhere.
    Raises MissingInput for a missing file or folder and when no image or no mask is found, BadData for ids that
    stand twice, paths that lead out of `images`, and tags that are no class.
    """
    table, images = Path(table), existing_folder(images)
    rows = read_table(table)
    classes = read_class_names(class_names)[0] if class_names else _inferred(rows)
    keys = [_key(row, images, table) for row in rows]
    known = collect(rows, keys, classes, table)
    root = common_root(images, existing_folder(masks)) if masks else common_root(images)
    paths, missing = _paths(rows, keys, images, root, table)
    if images_needed and missing == len(known):
        raise MissingInput(f"none of {len(known)} images is there", "check --images and the ids", where=str(images))
    mask_of = FileFinder(masks, root, MASK_SUFFIXES).find if masks else lambda _: None
    records: Sequence[Record] = [
        Record(key, paths[key], _labels(one, classes, table), mask_of(key), one.captions)
        for key, one in known.items()
    ]
    if masks and not any(record.mask_path for record in records):
        raise MissingInput(f"no mask of {len(records)} images is there", "check --masks", where=str(masks))
    inferred = class_names is None and len(classes) > 1
    notes: tuple[str, ...] = (f"{len(classes) - 1} classes are inferred from the tags",) if inferred else ()
    if labels_from_masks:
        records, more = with_labels_of_masks(records, root, len(classes) - 1)
        notes += (*more, "labels were read from the masks: the ground truth supervises")
    total = len(records)
    notes += counted(sum(one.labels is None for one in records), total, "have no tags (unknown)")
    notes += counted(missing, total, "are not there") if images_needed else ()
    if masks:
        notes += counted(sum(one.mask_path is None for one in records), total, "have no mask")
    supervision = supervision_of(records, from_masks=labels_from_masks)
    return Listing(root, classes, tuple(records), notes, supervision)


def _key(row: Row, images: Path, table: Path) -> str:
    if "id" in row.fields:
        return str(row.fields["id"])
    return posixpath.splitext(below(str(row.fields["path"]), images, f"{table}:{row.line}"))[0]


def _inferred(rows: Sequence[Row]) -> tuple[str, ...]:
    cells = [cell for row in rows if (cell := row.cell(TAG_COLUMNS)) is not None]
    # Names that stand between separators in one row may hold blanks, and then stand alone in another.
    joined = [split_tags(cell) for cell in cells if isinstance(cell, list) or any(mark in cell for mark in ";|,")]
    names = {tag for tags in joined for tag in tags}
    names |= {tag for cell in cells for tag in split_tags(cell, tuple(names))}
    return ("background", *sorted(names - {"background"}))


def _labels(one: Known, classes: tuple[str, ...], table: Path) -> tuple[int, ...] | None:
    return None if one.tags is None else class_ids(one.tags, classes, f"{table}:{one.line}")


def _paths(
    rows: Sequence[Row], keys: Sequence[str], images: Path, root: Path, table: Path
) -> tuple[dict[str, str], int]:
    """Return the path of every id, relative to the root, and how many are not there."""
    finder = FileFinder(images, root)
    paths: dict[str, str] = {}
    missing = 0
    for row, key in zip(rows, keys, strict=True):
        if key in paths:
            continue
        if "path" in row.fields:
            inside = below(str(row.fields["path"]), images, f"{table}:{row.line}")
            there = (images / inside).is_file()
            paths[key] = finder.place(inside)
        else:
            found = finder.find(key)
            there = found is not None
            paths[key] = found or finder.place(f"{key}.jpg")
        missing += not there
    return paths, missing
