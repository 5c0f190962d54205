"""Read lists of ids and tables of tags or captions, in the formats and dialects that people's programs write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.data.column_names import (
    CAPTION_COLUMNS,
    SCORE_COLUMNS,
    find_columns,
    normalise_column,
)
from stages.data.table_binaries import read_binary_table
from stages.data.table_columns import (
    INDICATORS,
    choose_id_columns,
    choose_tags_column,
    find_indicator_columns,
    format_column,
    join_columns,
)
from stages.data.table_text import Record, read_text_table
from stages.data.text_files import decode_text, read_bytes, read_nonblank_lines
from stages.data.text_files import read_text_file as read_text_file
from stages.errors import BadData, MissingInput

MAX_ID_LENGTH = 200
_ID = re.compile(r"[^\0\n\r\t]+")
_ID_WITH_FLAG = re.compile(r"(\S+)[ \t]+(-1|0|1)")
_USUAL_COLUMNS = ("labels", "tags", "classes")


@dataclass(frozen=True)
class TableRow:
    """One row of a table: its line, and its values by column name in lower case.

    The columns that were chosen for ids, paths and tags are called `id`, `path` and `tags`.
    """

    line: int
    fields: dict[str, Any]

    def get_cell(self, names: tuple[str, ...]) -> Any:
        """Return the value of the first column of `names` that this row has, or None."""
        return next((self.fields[name] for name in names if name in self.fields), None)

    def list_captions(self, where: str) -> tuple[str, ...]:
        """Return the captions of this row. Raises BadData for values that are no texts."""
        cells = [self.fields[name] for name in CAPTION_COLUMNS if name in self.fields]
        texts = [convert_scalar(text, "caption", where)
                 for cell in cells for text in (cell if isinstance(cell, list) else [cell]) if text is not None]
        return tuple(check_text(text, "caption", where) for text in texts if text)


@dataclass(frozen=True)
class Table:
    """A table: its rows, the columns as the file names them, whether they hold tags, and notes for the user.

    `class_columns` are the columns of 0 and 1, if these are the tags. `hint` says why columns of 0 and 1 are not.
    """

    path: Path
    rows: tuple[TableRow, ...]
    columns: tuple[str, ...]
    has_tags: bool = False
    notes: tuple[str, ...] = ()
    class_columns: tuple[str, ...] = ()
    hint: str = ""

    def locate(self, row: TableRow) -> str:
        """Return FILE:LINE of a row, for a message."""
        return f"{self.path}:{row.line}"


def read_id_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a list of ids that are not blank. Raises MissingInput if there are none."""
    lines = read_nonblank_lines(path)
    if not lines:
        raise MissingInput("the list is empty", "Write one id per line", where=str(path))
    return lines


def parse_ids(lines: list[tuple[int, str]], path: Path) -> list[str]:
    """Return the ids of a list's lines; for rows "id 1", "id 0", "id -1" of VOC's lists per class, only the id.

    The second column is dropped only if every line has one, because ids may contain blanks.
    Raises BadData for invalid and repeated ids.
    """
    matches = [_ID_WITH_FLAG.fullmatch(text) for _, text in lines]
    if all(matches):
        lines = [(line, match.group(1)) for (line, _), match in zip(lines, matches, strict=True) if match]
    return [name for _, name in check_unique_ids(lines, path)]


def check_unique_ids(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str]]:
    """Return `lines` of (line number, id) unchanged. Raises BadData for an invalid or repeated id."""
    line_by_id: dict[str, int] = {}
    for line, name in lines:
        check_id(name, f"{path}:{line}")
        if name in line_by_id:
            raise BadData(f"the id {name!r} is repeated in lines {line_by_id[name]} and {line}", "Keep one of them",
                          where=str(path))
        line_by_id[name] = line
    return lines


def check_id(name: str, where: str) -> str:
    """Return `name` if it is a valid id: 1 to 200 characters, no control characters, no path out of a folder.

    '/' may separate parts; absolute paths and the parts '', '.' and '..' are not allowed. Raises BadData otherwise.
    """
    message = ""
    if not _ID.fullmatch(name):
        message = f"the id {name!r} is empty or contains a tab, a line break or a NUL"
    elif len(name) > MAX_ID_LENGTH:
        message = f"the id {name[:20]!r}... has {len(name)} characters, more than the limit of {MAX_ID_LENGTH}"
    elif any(part in ("", ".", "..") for part in name.split("/")):
        message = f"the id {name!r} is absolute or has a part '', '.' or '..'"
    elif name.encode("utf-8", "ignore").decode() != name:
        message = f"the id {name!r} is not valid Unicode"
    if message:
        raise BadData(message, "Rename it", where=where)
    return name


def check_text(text: str, name: str, where: str) -> str:
    """Return `text` if a shard can store it. Raises BadData for a lone surrogate ("\\ud800" in JSON) or a NUL."""
    if text.encode("utf-8", "ignore").decode() != text or "\0" in text:
        raise BadData(f"{name} {text[:40]!r} is not valid Unicode or contains a NUL", "Correct the text", where=where)
    return text


def read_table(path: Path, *, id_column: str = "", tags_column: str = "", reads_tags: bool = True,
               has_options: bool = False) -> Table:
    """Read a table: CSV with any separator, TSV, JSON, JSON lines, XLSX or Parquet, recognised by its content.

    The columns of ids, paths and tags are found by their names (see `column_names`), unless `id_column` or
    `tags_column` names them. Columns that hold nothing but 0 and 1 are classes if no column holds tags. With
    `has_options` errors name the options that choose columns.
    Raises MissingInput for a table without rows, BadData with file and line for anything else.
    """
    path = Path(path)
    records, notes = _read_records(path)
    if not records:
        raise MissingInput("the table has no rows", "Write one row per image", where=str(path))
    columns = tuple(dict.fromkeys(column for _, record in records for column in record))
    ids = choose_id_columns(columns, id_column, path, has_options=has_options)
    tags = choose_tags_column(columns, tags_column, path, has_options=has_options) if reads_tags else None
    indicators, hint = find_indicator_columns(records, columns, ids) if reads_tags and tags is None else ([], "")
    if indicators:
        listed = ", ".join(map(format_column, indicators[:5])) + (", ..." if len(indicators) > 5 else "")
        notes += (f"The columns {listed} hold 0 and 1 and were read as {len(indicators)} classes.",)
    elif tags is not None:
        is_usual = normalise_column(tags) in _USUAL_COLUMNS
        notes += () if is_usual else (f"Read the tags from the column {format_column(tags)!r}.",)
    scores = find_columns(columns, SCORE_COLUMNS) if tags is not None else []
    rows = tuple(_build_row(line, _drop_absent_tag(record, tags, scores), ids, tags, indicators, path)
                 for line, record in records)
    return Table(path, rows, columns, tags is not None or bool(indicators), notes, tuple(indicators), hint)


def _read_records(path: Path) -> tuple[list[Record], tuple[str, ...]]:
    data = read_bytes(path)
    binary = read_binary_table(data, path)
    if binary is not None:
        return binary
    text, notes = decode_text(data, path)
    return _unify_spelling(read_text_table(text, path)), notes


def _unify_spelling(records: Sequence[Record]) -> list[Record]:
    """Return the rows with one spelling per column: in JSON, a row may say ID and another id."""
    spellings: dict[str, str] = {}
    return [(line, {spellings.setdefault(normalise_column(column), column): value for column, value in record.items()})
            for line, record in records]


def _drop_absent_tag(record: dict[str, Any], tags: str | None, scores: Sequence[str]) -> dict[str, Any]:
    """Return a row with the tag as {tag: 0} if a column of scores says 0: the class was looked for and not found."""
    if tags is None or not any(str(record.get(column)).strip() in ("0", "0.0", "False", "false") for column in scores):
        return record
    return {**record, tags: {str(record.get(tags)): 0}}


def _build_row(line: int, record: dict[str, Any], ids: dict[str, str], tags: str | None, indicators: Sequence[str],
               path: Path) -> TableRow:
    """Return a row with the chosen columns under the names id, path and tags; null means that it lacks the column."""
    where = f"{path}:{line}"
    fields = {normalise_column(column): value for column, value in record.items() if value is not None}
    for name in ("id", "path", "tags"):
        fields.pop(name, None)
    for field, column in ids.items():
        if record.get(column) is not None:
            fields[field] = check_text(convert_scalar(record[column], field, where), field, where)
    if not {"id", "path"} & fields.keys():
        raise BadData("the line is not an object with id or path",
                      f"Give it a value of {join_columns(list(ids.values()))}", where=where)
    if indicators:
        fields["tags"] = [column for column in indicators if INDICATORS[str(record[column]).strip().casefold()]]
    elif tags is not None and record.get(tags) is not None:
        fields["tags"] = record[tags]
    return TableRow(line, fields)


def convert_scalar(value: Any, name: str, where: str) -> str:
    """Return a text or number as text. Raises BadData for lists, objects and booleans."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadData(f"the {name} {str(value)[:40]!r} is not a text or a number", "Write a text", where=where)
    return str(value).strip()
