"""What an importer returns: one record per image, and what is said about the set as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stages.data.tables import CAPTION_COLUMNS, TAG_COLUMNS, Row, check_id, split_tags
from stages.errors import BadData


@dataclass(frozen=True)
class Record:
    """One image: its id, its file below the root, and what is known of it.

    `labels` are sorted class ids: () for known to have none, None for unknown. `span` is (offset, size) of the image's
    bytes where `path` leads into a tar archive.
    """

    id: str
    path: str
    labels: tuple[int, ...] | None = None
    mask_path: str | None = None
    captions: tuple[str, ...] = ()
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Listing:
    """A data set as found: `root` holds all files, `classes` names ids (position 0: background, or "").

    `notes` are one line each, for the user. `supervision` says where labels come from: "tags", "masks" (a
    leak, since the ground truth supervises), "captions" or "none". `label_map` names what the values of the masks
    mean, where they are not class ids.
    """

    root: Path
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
    supervision: str = "tags"
    label_map: str = ""


@dataclass(frozen=True)
class Known:
    """What a table says of one image: its tags (None: unknown), its captions, the line where it says so."""

    line: int
    tags: tuple[str, ...] | None = None
    captions: tuple[str, ...] = ()


def class_ids(tags: Iterable[str], classes: Sequence[str], where: str) -> tuple[int, ...]:
    """Return the sorted ids 1..C of tag names; the background's own name is dropped.

    Raises BadData for a tag that is no class, naming it and the nearest class.
    """
    by_name = {name: position for position, name in enumerate(classes) if name}
    ids = set()
    for tag in tags:
        if tag not in by_name:
            near = difflib.get_close_matches(tag.lower(), [name.lower() for name in classes[1:]], n=1, cutoff=0.5)
            named = [name for name in classes[1:] if near and name.lower() == near[0]]
            do = f"the nearest is {named[0]!r}" if named else f"classes are {', '.join(classes[1:6])}, ..."
            raise BadData(f"tag {tag!r} is no class", do, where=where)
        ids.add(by_name[tag])
    return tuple(sorted(ids - {0}))


def collect(rows: Sequence[Row], keys: Sequence[str], classes: Sequence[str], path: Path) -> dict[str, Known]:
    """Return what the rows of a table say per image; `keys` are the rows' ids, in order.

    Rows that repeat an id add captions; their tags must agree. Other repeats raise BadData with both lines.
    """
    known: dict[str, Known] = {}
    for row, key in zip(rows, keys, strict=True):
        check_id(key, f"{path}:{row.line}")
        cell, caption = row.cell(TAG_COLUMNS), row.cell(CAPTION_COLUMNS)
        tags = None if cell is None else tuple(split_tags(cell, tuple(classes)))
        captions = tuple(one for one in ([caption] if isinstance(caption, str) else caption or []) if one)
        before = known.get(key)
        if before is None:
            known[key] = Known(row.line, tags, captions)
            continue
        if not captions or before.tags != tags:
            raise BadData(
                f"id {key!r} stands in lines {before.line} and {row.line}", "keep one of them", where=str(path)
            )
        known[key] = replace(before, captions=before.captions + captions)
    return known


def supervision_of(records: Iterable[Record], *, from_masks: bool = False) -> str:
    """Return what supervises these records: "masks", "tags", "captions" or "none"."""
    records = tuple(records)
    if any(record.labels is not None for record in records):
        return "masks" if from_masks else "tags"
    return "captions" if any(record.captions for record in records) else "none"


def counted(count: int, total: int, what: str) -> tuple[str, ...]:
    """Return the note "COUNT of TOTAL images WHAT", or nothing when the count is 0."""
    return (f"{count} of {total} images {what}",) if count else ()
