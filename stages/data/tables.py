"""Lists of ids, tables of tags and lists of class names, as people write them: BOM, CRLF, blanks and all."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput

Cell = str | list[str]
TAG_COLUMNS = ("tags", "labels", "classes")
CAPTION_COLUMNS = ("caption", "captions")
TAG_SEPARATORS = (";", "|", ",")
BACKGROUND_NAMES = ("background", "_background_", "void")
LARGEST_ID = 200
_ID = re.compile(r"[^\0\n\r\t]+")
_MARKED = re.compile(r"(\S+)[ \t]+(-1|0|1)")


@dataclass(frozen=True)
class Row:
    """One row of a table: its line, and its cells by column name in small letters."""

    line: int
    fields: dict[str, Cell]

    def cell(self, names: tuple[str, ...]) -> Cell | None:
        """Return the cell of the first of `names` that this row has, or None."""
        return next((self.fields[name] for name in names if name in self.fields), None)


def read_text(path: Path) -> str:
    """Return a text file without BOM. Raises MissingInput when it isn't there, BadData when it isn't UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"byte {error.start} is not UTF-8", "save it as UTF-8", where=str(path)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInput("no such file", "check the path", where=str(path)) from error
    except IsADirectoryError as error:
        raise MissingInput("is a folder, a file is needed", where=str(path)) from error


def written_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines that aren't blank, stripped."""
    lines = re.split(r"\r\n|\n|\r", read_text(path))
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the written lines of a list of ids. Raises MissingInput when there is none."""
    kept = written_lines(path)
    if not kept:
        raise MissingInput("empty list", "give one id a line", where=str(path))
    return kept


def ids_of(lines: list[tuple[int, str]], path: Path) -> list[str]:
    """Return the ids of a list's lines; rows "id 1", "id 0", "id -1" of VOC's lists per class give the id.

    Such a second column is dropped only when every line has one, so that ids may hold blanks.
    Raises BadData for what can't be an id and for ids that stand twice.
    """
    marked = [_MARKED.fullmatch(text) for _, text in lines]
    if all(marked):
        lines = [(line, match.group(1)) for (line, _), match in zip(lines, marked, strict=True) if match]
    return [name for _, name in unique(lines, path)]


def unique(lines: list[tuple[int, str]], path: Path) -> list[tuple[int, str]]:
    """Return (line, id) as given. Raises BadData for an id that stands twice or that can't be one."""
    first: dict[str, int] = {}
    for line, name in lines:
        check_id(name, f"{path}:{line}")
        if name in first:
            raise BadData(
                f"id {name!r} stands in lines {first[name]} and {line}", "keep one of them", where=str(path)
            )
        first[name] = line
    return lines


def check_id(name: str, where: str) -> str:
    """Return `name` when it can be an id: 1 to 200 characters, no control characters, no way out of a folder.

    '/' is allowed between parts; absolute paths and the parts '', '.' and '..' are not. Else raises BadData.
    """
    what = ""
    if not _ID.fullmatch(name):
        what = f"id {name!r} is empty or holds a tab, a line break or a NUL"
    elif len(name) > LARGEST_ID:
        what = f"id {name[:20]!r}... has {len(name)} characters, at most {LARGEST_ID} are allowed"
    elif any(part in ("", ".", "..") for part in name.split("/")):
        what = f"id {name!r} is absolute or has a part '', '.' or '..'"
    elif name.encode("utf-8", "ignore").decode() != name:
        what = f"id {name!r} is not valid Unicode"
    if what:
        raise BadData(what, "rename it", where=where)
    return name


def check_text(text: str, what: str, where: str) -> str:
    """Return `text` when a shard can hold it. Raises BadData for a lone surrogate ("\\ud800" in JSON) or a NUL."""
    if text.encode("utf-8", "ignore").decode() != text or "\0" in text:
        raise BadData(f"{what} {text[:40]!r} is not valid Unicode or holds a NUL", "mend it", where=where)
    return text


def read_table(path: Path) -> list[Row]:
    """Return the rows of a CSV, TSV or JSONL table, by suffix, else by what it looks like.

    Columns are `id` or `path`; `tags`, `labels` or `classes`; `caption`; others are kept and mean nothing. In
    JSONL a value may be a list; null is as if the column weren't there.
    Raises MissingInput for a table without rows, BadData naming file and line for anything else.
    """
    text = read_text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    suffix = Path(path).suffix.lower()
    if suffix in (".jsonl", ".ndjson") or (suffix not in (".csv", ".tsv") and first.lstrip().startswith("{")):
        rows = _read_jsonl(text, path)
    else:
        rows = _read_delimited(text, _delimiter(first, suffix), path)
    if not rows:
        raise MissingInput("table without rows", "give one image a row", where=str(path))
    return rows


def split_tags(cell: Cell, classes: tuple[str, ...] = ()) -> list[str]:
    """Return the tags of one cell: separated by ';', '|' or ',' if one is present, else by blanks.

    Between blanks the longest name among `classes` wins, so that "potted plant person" is two tags. Words that
    belong to no name are returned as they are.
    """
    if isinstance(cell, list):
        return [tag.strip() for tag in cell if tag.strip()]
    if cell.strip() and cell.strip() in classes:
        return [cell.strip()]
    separator = next((mark for mark in TAG_SEPARATORS if mark in cell), None)
    if separator:
        return [tag.strip() for tag in cell.split(separator) if tag.strip()]
    words, tags = cell.split(), []
    longest = max((len(name.split()) for name in classes), default=1)
    while words:
        lengths = range(min(longest, len(words)), 1, -1)
        taken = next((n for n in lengths if " ".join(words[:n]) in classes), 1)
        tags.append(" ".join(words[:taken]))
        words = words[taken:]
    return tags


def read_class_names(path: Path) -> tuple[tuple[str, ...], bool]:
    """Return the class names by id, and whether the set has a background; position 0 is "background" or "".

    One name a line. A first line `background`, `_background_` or `void` is position 0 (`void`: the set has no
    background), else a background is added. Raises BadData for a name that stands twice.
    """
    lines = written_lines(path)
    has_background = True
    if lines and lines[0][1].lower() in BACKGROUND_NAMES:
        has_background = lines[0][1].lower() != "void"
        lines = lines[1:]
    first: dict[str, int] = {}
    for line, name in lines:
        if name in first:
            raise BadData(f"class {name!r} stands in lines {first[name]} and {line}", where=str(path))
        first[name] = line
    if not first:
        raise MissingInput("no class names", "give one a line", where=str(path))
    return ("background" if has_background else "", *first), has_background


def _delimiter(header: str, suffix: str) -> str:
    if suffix == ".tsv" or (suffix != ".csv" and "\t" in header):
        return "\t"
    # Spreadsheets of many countries write CSV with semicolons.
    return ";" if ";" in header and "," not in header else ","


def _read_delimited(text: str, delimiter: str, path: Path) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _checked_header(cells, path)
            else:
                rows.append(_row(header, cells, reader.line_num, path))
    except csv.Error as error:
        raise BadData(f"{error}", "check the quotes", where=f"{path}:{reader.line_num}") from error
    return rows


def _checked_header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    if "id" not in names and "path" not in names:
        raise BadData(
            f"no column id or path among {', '.join(names)}", "name the columns in the first line", where=str(path)
        )
    _refuse_twice(names, str(path))
    return names


def _refuse_twice(names: list[str], where: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadData(f"two columns are named {twice!r}", where=where)


def _row(header: list[str], cells: list[str], line: int, path: Path) -> Row:
    if len(cells) != len(header):
        raise BadData(
            f"{len(cells)} cells, the first line names {len(header)} columns",
            "quote cells that hold the separator",
            where=f"{path}:{line}",
        )
    return _checked(Row(line, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}), path)


def _checked(row: Row, path: Path) -> Row:
    """Return a row when all text that is taken from it can be kept; ids are looked at by `check_id`."""
    for name in {"path", *TAG_COLUMNS, *CAPTION_COLUMNS} & row.fields.keys():
        cell = row.fields[name]
        for text in [cell] if isinstance(cell, str) else cell:
            check_text(text, name, f"{path}:{row.line}")
    return row


def _read_jsonl(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"not JSON ({error})", where=f"{path}:{number}") from error
        told = [(key.lower(), cell) for key, cell in value.items()] if isinstance(value, dict) else []
        _refuse_twice([name for name, _ in told], f"{path}:{number}")
        fields = {name: _json_cell(cell) for name, cell in told if cell is not None}
        if not {"id", "path"} & fields.keys():
            raise BadData("not an object with id or path", where=f"{path}:{number}")
        rows.append(_checked(Row(number, fields), path))
    return rows


def _json_cell(value: Any) -> Cell:
    if isinstance(value, list):
        return [str(one) for one in value]
    return value.strip() if isinstance(value, str) else str(value)
