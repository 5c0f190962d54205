"""Collect what a table says of each image: its tags and captions, from one row or from several."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stages.data.tables import Table, TableRow, check_id, check_text
from stages.data.tag_parsing import TagParser
from stages.errors import BadData


@dataclass(frozen=True)
class TableEntry:
    """The entry of an image in a table: its tags (None: unknown), its captions and its line.

    `is_single` says that each of its rows has one tag, so that further rows may add tags.
    """

    line: int
    tags: tuple[str, ...] | None = None
    captions: tuple[str, ...] = ()
    path: str = ""
    is_single: bool = False


def collect_table_entries(
    table: Table, ids: Sequence[str], parser: TagParser, *, reads_tags: bool = True
) -> tuple[dict[str, TableEntry], tuple[str, ...]]:
    """Return (the entries of a table by image id, notes for the user); `ids` are the ids of the rows, in order.

    Rows that repeat an id may add captions, if their tags agree, or one tag each; identical rows count once. Raises
    BadData with both lines for other repetitions, and with its line for a cell that can't be read.
    """
    entries: dict[str, TableEntry] = {}
    united, identical = [], []
    for row, image_id in zip(table.rows, ids, strict=True):
        check_id(image_id, table.locate(row))
        entry = _read_entry(row, parser, table.locate(row), reads_tags=reads_tags)
        earlier = entries.get(image_id)
        if earlier is None:
            entries[image_id] = entry
            continue
        entries[image_id] = _merge_entries(earlier, entry, image_id, table)
        pair = f"{image_id!r} in lines {earlier.line} and {entry.line}"
        if entries[image_id] == earlier:
            identical.append(pair)
        elif entries[image_id].tags != earlier.tags:
            united.append(pair)
    return entries, (*_describe_rows(united, "added a tag to an image that an earlier row names"),
                     *_describe_rows(identical, "repeated an earlier row"), *parser.list_notes())


def _read_entry(row: TableRow, parser: TagParser, where: str, *, reads_tags: bool) -> TableEntry:
    cell = row.fields.get("tags") if reads_tags else None
    names = None if cell is None else parser.list_names(cell, where)
    tags = None if names is None else parser.convert_names(names)
    for tag in tags or ():
        check_text(tag, "tags", where)
    is_single = names is not None and (len(names) == 1 or (isinstance(cell, dict) and len(cell) == 1))
    path = posixpath.normpath(row.fields.get("path", ""))
    return TableEntry(row.line, tags, row.list_captions(where), path, is_single)


def _merge_entries(earlier: TableEntry, entry: TableEntry, image_id: str, table: Table) -> TableEntry:
    """Return an entry with what a further row of the same id adds. Raises BadData if the rows contradict each other."""
    if earlier.path != entry.path:
        raise BadData(f"the id {image_id!r} has two paths, {earlier.path!r} in line {earlier.line} and {entry.path!r} "
                      f"in line {entry.line}", "Correct one of the two lines", where=str(table.path))
    captions = earlier.captions + tuple(text for text in entry.captions if text not in earlier.captions)
    if entry.tags == earlier.tags or entry.tags is None:
        return replace(earlier, captions=captions)
    if earlier.tags is None:
        return replace(earlier, captions=captions, tags=entry.tags, is_single=entry.is_single)
    if earlier.captions or entry.captions or not (earlier.is_single and entry.is_single):
        raise BadData(f"the id {image_id!r} is repeated in lines {earlier.line} and {entry.line} with other tags",
                      "Keep one of the two lines, or write one tag per line", where=str(table.path))
    return replace(earlier, tags=tuple(dict.fromkeys(earlier.tags + entry.tags)))


def _describe_rows(pairs: Sequence[str], predicate: str) -> tuple[str, ...]:
    return (f"{len(pairs)} row{'s' if len(pairs) > 1 else ''} {predicate}, for example {pairs[0]}.",) if pairs else ()
