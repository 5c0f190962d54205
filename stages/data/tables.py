"""Read lists of ids, tables of tags and lists of class names as people write them: with BOM, CRLF and extra blanks."""

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
MAX_ID_LENGTH = 200
_JSONL_REMEDY = 'Write one object per line, such as {"id": "photo1", "tags": ["cat"]}'
_ID = re.compile(r"[^\0\n\r\t]+")
_ID_WITH_FLAG = re.compile(r"(\S+)[ \t]+(-1|0|1)")


@dataclass(frozen=True)
class TableRow:
    """One row of a table: its line, and its cells by column name in lower case."""

    line: int
    fields: dict[str, Cell]

    def get_cell(self, names: tuple[str, ...]) -> Cell | None:
        """Return the cell of the first column of `names` that this row has, or None."""
        return next((self.fields[name] for name in names if name in self.fields), None)


def read_text_file(path: Path) -> str:
    """Read a text file without BOM. Raises MissingInput if it does not exist, BadData if it is not UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadData(f"byte {error.start} is not UTF-8", "Save the file as UTF-8", where=str(path)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInput("there is no such file", "Check the path", where=str(path)) from error
    except IsADirectoryError as error:
        raise MissingInput("this is a folder, but a file is required", "Pass a file", where=str(path)) from error


def read_nonblank_lines(path: Path) -> list[tuple[int, str]]:
    """Read (line number, stripped text) of the lines that are not blank."""
    lines = re.split(r"\r\n|\n|\r", read_text_file(path))
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


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


def read_table(path: Path) -> list[TableRow]:
    """Read the rows of a CSV, TSV or JSONL table; the format follows from the suffix, else from the first line.

    Columns are `id` or `path`; `tags`, `labels` or `classes`; `caption`; others are kept but not used. In JSONL a value
    may be a list; null means that the row lacks the column.
    Raises MissingInput for a table without rows, BadData with file and line for anything else.
    """
    text = read_text_file(path)
    first_line = next((line for line in text.splitlines() if line.strip()), "")
    suffix = Path(path).suffix.lower()
    if suffix in (".jsonl", ".ndjson") or (suffix not in (".csv", ".tsv") and first_line.lstrip().startswith("{")):
        rows = _read_jsonl(text, path)
    else:
        rows = _read_delimited(text, _choose_delimiter(first_line, suffix), path)
    if not rows:
        raise MissingInput("the table has no rows", "Write one row per image", where=str(path))
    return rows


def split_tags(cell: Cell, classes: tuple[str, ...] = ()) -> list[str]:
    """Split a cell into tags, at ';', '|' or ',' if it contains one of them, else at blanks.

    At blanks the longest name in `classes` wins, so that "potted plant person" is two tags. Words that belong to no
    name are returned as they are.
    """
    if isinstance(cell, list):
        return [tag.strip() for tag in cell if tag.strip()]
    if cell.strip() and cell.strip() in classes:
        return [cell.strip()]
    separator = next((mark for mark in TAG_SEPARATORS if mark in cell), None)
    if separator:
        return [tag.strip() for tag in cell.split(separator) if tag.strip()]
    words, tags = cell.split(), []
    max_words = max((len(name.split()) for name in classes), default=1)
    while words:
        lengths = range(min(max_words, len(words)), 1, -1)
        num_words = next((length for length in lengths if " ".join(words[:length]) in classes), 1)
        tags.append(" ".join(words[:num_words]))
        words = words[num_words:]
    return tags


def read_class_names(path: Path) -> tuple[tuple[str, ...], bool]:
    """Read the class names by id, and whether the set has a background; position 0 is "background" or "".

    The file has one name per line. A first line `background`, `_background_` or `void` is position 0 (`void`: the set
    has no background), else a background is added. Raises BadData for a repeated name.
    """
    lines = read_nonblank_lines(path)
    has_background = True
    if lines and lines[0][1].lower() in BACKGROUND_NAMES:
        has_background = lines[0][1].lower() != "void"
        lines = lines[1:]
    line_by_name: dict[str, int] = {}
    for line, name in lines:
        if name in line_by_name:
            raise BadData(f"the class {name!r} is repeated in lines {line_by_name[name]} and {line}",
                          "Keep one of them", where=str(path))
        line_by_name[name] = line
    if not line_by_name:
        raise MissingInput("the file has no class names", "Write one name per line", where=str(path))
    return ("background" if has_background else "", *line_by_name), has_background


def _choose_delimiter(header: str, suffix: str) -> str:
    if suffix == ".tsv" or (suffix != ".csv" and "\t" in header):
        return "\t"
    # In many countries spreadsheets write CSV with semicolons.
    return ";" if ";" in header and "," not in header else ","


def _read_delimited(text: str, delimiter: str, path: Path) -> list[TableRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[TableRow] = []
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _parse_header(cells, path)
            else:
                rows.append(_build_row(header, cells, reader.line_num, path))
    except csv.Error as error:
        raise BadData(f"the line is not valid CSV ({error})", "Check its quotes",
                      where=f"{path}:{reader.line_num}") from error
    return rows


def _parse_header(cells: list[str], path: Path) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    if "id" not in names and "path" not in names:
        raise BadData(f"there is no column id or path, only {', '.join(names)}", "Name the columns in the first line",
                      where=str(path))
    _check_unique_columns(names, str(path))
    return names


def _check_unique_columns(names: list[str], where: str) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise BadData(f"two columns have the name {repeated!r}", "Rename or remove one of them", where=where)


def _build_row(header: list[str], cells: list[str], line: int, path: Path) -> TableRow:
    if len(cells) != len(header):
        raise BadData(
            f"the row has {len(cells)} cells, but the first line has {len(header)} columns",
            "Put quotes around cells that contain the separator",
            where=f"{path}:{line}",
        )
    return _check_row(TableRow(line, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}), path)


def _check_row(row: TableRow, path: Path) -> TableRow:
    """Return a row if a shard can store its texts; ids are checked by `check_id`."""
    for name in {"path", *TAG_COLUMNS, *CAPTION_COLUMNS} & row.fields.keys():
        cell = row.fields[name]
        for text in [cell] if isinstance(cell, str) else cell:
            check_text(text, name, f"{path}:{row.line}")
    return row


def _read_jsonl(text: str, path: Path) -> list[TableRow]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"the line is not valid JSON ({error})", _JSONL_REMEDY, where=f"{path}:{number}") from error
        pairs = [(key.lower(), cell) for key, cell in value.items()] if isinstance(value, dict) else []
        _check_unique_columns([name for name, _ in pairs], f"{path}:{number}")
        fields = {name: _convert_json_cell(cell) for name, cell in pairs if cell is not None}
        if not {"id", "path"} & fields.keys():
            raise BadData("the line is not an object with id or path", _JSONL_REMEDY, where=f"{path}:{number}")
        rows.append(_check_row(TableRow(number, fields), path))
    return rows


def _convert_json_cell(value: Any) -> Cell:
    if isinstance(value, list):
        return [str(item) for item in value]
    return value.strip() if isinstance(value, str) else str(value)
