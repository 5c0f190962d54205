"""Import a folder of images with a table of tags."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.data.class_names import check_mask_ids, read_class_list
from stages.data.folders import (
    MASK_SUFFIXES,
    FileFinder,
    find_common_root,
    has_image_suffix,
    read_labels_from_masks,
    require_folder,
    resolve_inside_root,
)
from stages.data.records import (
    LABELS_FROM_MASKS_NOTE,
    ImageRecord,
    Listing,
    describe_classes,
    describe_count,
    infer_supervision,
    resolve_class_ids,
)
from stages.data.table_entries import TableEntry, collect_table_entries
from stages.data.tables import Table, TableRow, read_table
from stages.data.tag_classes import collect_class_names
from stages.data.tag_parsing import TagParser
from stages.errors import BadData, MissingInput


def list_table(
    table: Path,
    *,
    images: Path,
    masks: Path | None = None,
    class_names: Path | None = None,
    classes: tuple[str, ...] | None = None,
    labels_from_masks: bool = False,
    require_images: bool = True,
    id_column: str = "",
    tags_column: str = "",
    reads_tags: bool = True,
    has_mask_values: bool = False,
) -> Listing:
    """List the images of a table (see `read_table`), which are below `images`.

    Ids come from a column such as `id`, else from `path` without its suffix. The file of an image is that of `path`,
    else the id with a known suffix in upper or lower case. Masks are the files of the ids below `masks`. The class
    names are those of the file `class_names`, or `classes` (position 0: the background), else the tags of the table,
    sorted, with a background. `require_images` False is for using the tags alone:
    images may then be anywhere or missing. `reads_tags` False leaves all tags unknown; `has_mask_values` says that the
    user has stated what the values of masks are.
    Raises MissingInput for a missing file or folder and if no image or no mask exists, BadData for repeated ids,
    paths outside `images`, tags that are not classes, and a table without tags or captions.
    """
    table, images = Path(table), require_folder(images)
    content = read_table(table, id_column=id_column, tags_column=tags_column, reads_tags=reads_tags, has_options=True)
    rows = content.rows
    is_inferred = class_names is None and classes is None
    class_list = read_class_list(class_names) if class_names else None
    notes = content.notes + (class_list.notes if class_list else ())
    if class_list is not None:
        classes = class_list.names
    elif classes is None:
        cells: list[tuple[Any, str]] = [(row.fields["tags"], content.locate(row)) for row in rows
                                        if "tags" in row.fields]
        classes, class_notes = collect_class_names([*cells, (list(content.class_columns), str(table))])
        notes += class_notes
    ids = [_read_id(row, images, table) for row in rows]
    entries, entry_notes = collect_table_entries(content, ids, TagParser(classes), reads_tags=reads_tags)
    notes += entry_notes
    if reads_tags and (is_inferred or class_names):
        _check_supervision(content, list(entries.values()), from_masks=labels_from_masks)
    root = find_common_root(images, require_folder(masks)) if masks else find_common_root(images)
    finder = FileFinder(images, root)
    paths, num_missing = _find_paths(rows, ids, finder, table)
    if require_images and num_missing == len(entries):
        raise MissingInput(f"none of the {len(entries)} images exists in this folder",
                           f"{finder.describe_missing(_read_name(rows[0]))}. Check --images and the ids in "
                           f"{table.name}", where=str(images))
    mask_finder = FileFinder(masks, root, MASK_SUFFIXES) if masks else None
    records: Sequence[ImageRecord] = [
        ImageRecord(image_id, paths[image_id], _resolve_labels(entry, classes, table),
                    mask_finder.find(image_id) if mask_finder else None,
                    entry.captions)
        for image_id, entry in entries.items()
    ]
    if masks and not any(record.mask_path for record in records):
        raise MissingInput(f"none of the {len(records)} images has a mask in this folder", "Check --masks",
                           where=str(masks))
    if masks and class_list and class_names and not has_mask_values:
        check_mask_ids(class_list, class_names)
    notes += describe_classes(classes, records) if is_inferred and len(classes) > 1 else ()
    for file_finder in (finder, mask_finder):
        notes += file_finder.describe_corrections() if file_finder else ()
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
    path = resolve_inside_root(row.fields["path"], images, f"{table}:{row.line}")
    return posixpath.splitext(path)[0] if has_image_suffix(path) else path


def _check_supervision(table: Table, entries: Sequence[TableEntry], *, from_masks: bool) -> None:
    """Raise BadData if no image of a table has a tag or a caption, since that is hardly ever meant."""
    if from_masks or any(entry.tags or entry.captions for entry in entries):
        return
    columns = ", ".join(column.encode("utf-8", "backslashreplace").decode() for column in table.columns)
    if table.has_tags:
        raise BadData(f"no image of the table has a tag (columns: {columns})",
                      "Choose the column of the tags with --tags-column NAME, or use --no-tags to index images without "
                      "tags", where=str(table.path))
    raise BadData(f"no column holds tags or captions, only {columns}{table.hint}",
                  "Call one of them labels or choose it with --tags-column NAME, or use --no-tags to index images "
                  "without tags", where=str(table.path))


def _resolve_labels(entry: TableEntry, classes: tuple[str, ...], table: Path) -> tuple[int, ...] | None:
    return None if entry.tags is None else resolve_class_ids(entry.tags, classes, f"{table}:{entry.line}")


def _read_name(row: TableRow) -> str:
    """Return the path in a row, or the id if it has none, as the table has it."""
    return str(row.fields["path"] if "path" in row.fields else row.fields["id"])


def _find_paths(rows: Sequence[TableRow], ids: Sequence[str], finder: FileFinder,
                table: Path) -> tuple[dict[str, str], int]:
    """Return the path of each image, relative to the root, by id, and how many images do not exist."""
    paths: dict[str, str] = {}
    num_missing = 0
    for row, image_id in zip(rows, ids, strict=True):
        if image_id in paths:
            continue
        if "path" in row.fields:
            file, expected = _find_path(str(row.fields["path"]), finder, f"{table}:{row.line}")
        else:
            file, expected = finder.find(image_id), finder.relative_to_root(f"{image_id}.jpg")
        paths[image_id] = file or expected
        num_missing += file is None
    return paths, num_missing


def _find_path(name: str, finder: FileFinder, where: str) -> tuple[str | None, str]:
    """Return (the file of a path in the table, None if it does not exist; where it is expected)."""
    path = resolve_inside_root(name, finder.folder, where)
    expected = finder.relative_to_root(path)
    if not (finder.folder / path).is_file():
        return finder.find(path, written=name), expected
    if "\\" in name and "\\" not in path:
        finder.add_correction(name, expected)
    return expected, expected
