"""Read tables that are text: CSV with any separator, JSON and JSON lines. Values stay as they are written."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.data.column_names import ID_COLUMNS, PATH_COLUMNS, TAG_COLUMNS, find_columns, normalise_column
from stages.errors import BadData

Record = tuple[int, dict[str, Any]]
_JSONL_REMEDY = 'Write one object per line, such as {"id": "photo1", "tags": ["cat"]}'
_JSON_REMEDY = 'Write an array of objects such as [{"id": "photo1", "tags": ["cat"]}], or an object {"photo1": ["cat"]}'
_DELIMITERS = (",", ";", "\t", "|")
_KNOWN_COLUMNS = (*ID_COLUMNS, *PATH_COLUMNS, *TAG_COLUMNS)
_BLANKS = re.compile(r"\s*")


def read_text_table(text: str, path: Path) -> list[Record]:
    """Return (line, {column: value}) of the rows; columns keep their names. Raises BadData with file and line."""
    start = text.lstrip()[:1]
    suffix = Path(path).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return list(_read_json_lines(text, path))
    if start == "[":
        return list(_read_json_array(text, path))
    if start == "{":
        return list(_read_json_lines(text, path) if _is_json_lines(text) else _read_json_object(text, path))
    if suffix == ".json" and start:
        raise BadData("the file is not valid JSON", _JSON_REMEDY, where=str(path))
    return list(_read_delimited(text, path))


def check_unique_columns(names: list[str], where: str) -> None:
    """Raise BadData if two columns have the same name, apart from letter case. Columns without a name don't count."""
    named = [normalise_column(name) for name in names if name]
    repeated = next((name for name in named if named.count(name) > 1), None)
    if repeated is not None:
        raise BadData(f"two columns have the name {repeated!r}", "Rename or remove one of them", where=where)


def build_record(header: list[str], cells: list[Any], line: int, path: Path) -> Record:
    """Return the row of a table with one cell per column. Raises BadData for another number of cells."""
    while len(cells) > len(header) and cells[-1] in ("", None):
        cells = cells[:-1]
    if len(cells) != len(header):
        raise BadData(f"the row has {len(cells)} cells, but the first line has {len(header)} columns",
                      "Put quotes around cells that contain the separator", where=f"{path}:{line}")
    return line, {name: cell for name, cell in zip(header, cells, strict=True) if name}


def _read_delimited(text: str, path: Path) -> Iterator[Record]:
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    skipped, delimiter = _find_header(lines)
    reader = csv.reader(io.StringIO("".join(lines[skipped:]), newline=""), delimiter=delimiter, strict=True,
                        skipinitialspace=True)
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if header:
                yield build_record(header, cells, reader.line_num + skipped, path)
                continue
            header = [normalise_header(cell) for cell in cells]
            check_unique_columns(header, str(path))
    except csv.Error as error:
        raise BadData(f"the line is not valid CSV ({error})", "Check its quotes",
                      where=f"{path}:{reader.line_num + skipped}") from error


def normalise_header(cell: str) -> str:
    """Return the name of a column without blanks, quotes and the '#' that some programs put before the first one."""
    return cell.lstrip("\ufeff# ").strip(" \u00a0\"'")


def _find_header(lines: list[str]) -> tuple[int, str]:
    """Return (how many lines precede the header, the delimiter): comments, blank lines and Excel's `sep=;`."""
    for number, line in enumerate(lines):
        text = line.strip()
        declared = re.fullmatch(r"\"?sep=(.)\"?", text, re.IGNORECASE)
        if declared and declared[1] in _DELIMITERS:
            return number + 1, declared[1]
        delimiter, num_known = _choose_delimiter(text)
        if text and (not text.startswith("#") or num_known):
            return number, delimiter
    return 0, ","


def _choose_delimiter(header: str) -> tuple[str, int]:
    """Return (the delimiter that separates most names of known columns, the number of those)."""
    ranked = []
    for delimiter in _DELIMITERS:
        names = [normalise_header(name) for name in header.split(delimiter)]
        ranked.append((len(find_columns(names, _KNOWN_COLUMNS)), len(names)))
    best = max(range(len(_DELIMITERS)), key=lambda index: (*ranked[index], -index))
    return _DELIMITERS[best], ranked[best][0]


def _is_json_lines(text: str) -> bool:
    """Return whether a text that starts with { has several objects, or one that is a row and not a table."""
    try:
        value, end = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return "\n" not in text.strip() or bool(re.match(r"\{.*\}\s*$", text.lstrip().splitlines()[0]))
    columns = {normalise_column(key) for key, item in value.items() if isinstance(item, (str, int))}
    return bool(text.lstrip()[end:].strip() or columns & {*ID_COLUMNS, *PATH_COLUMNS})


def _read_json_lines(text: str, path: Path) -> Iterator[Record]:
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"the line is not valid JSON ({error})", _JSONL_REMEDY, where=f"{path}:{number}") from error
        if not isinstance(value, dict):
            raise BadData("the line is not an object with id or path", _JSONL_REMEDY, where=f"{path}:{number}")
        check_unique_columns(list(value), f"{path}:{number}")
        yield number, value


class _JsonReader:
    """Reads the values of a JSON text one by one, so that each has its line and repeated keys are seen."""

    def __init__(self, text: str, path: Path) -> None:
        self.text, self.path = text, path
        self.position = self._last_end = 0
        self._line = 1

    @property
    def line(self) -> int:
        self._line += self.text.count("\n", self._last_end, self.position)
        self._last_end = self.position
        return self._line

    def skip_blanks(self) -> None:
        match = _BLANKS.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def skip(self, character: str) -> bool:
        """Skip blanks, and the character if it follows; return whether it did."""
        self.skip_blanks()
        if not self.text.startswith(character, self.position):
            return False
        self.position += 1
        return True

    def skip_comma(self, closing: str) -> None:
        """Skip the comma after an entry. Raises BadData if neither it nor the closing bracket follows."""
        if not self.skip(",") and not self.text.startswith(closing, self.position):
            raise self.fail(f"a comma or {closing} is missing")

    def read(self) -> Any:
        self.skip_blanks()
        try:
            value, self.position = json.JSONDecoder().raw_decode(self.text, self.position)
        except (ValueError, RecursionError) as error:
            raise self.fail(str(error)) from error
        return value

    def fail(self, reason: str) -> BadData:
        return BadData(f"the file is not valid JSON ({reason})", _JSON_REMEDY, where=f"{self.path}:{self.line}")


def _read_json_array(text: str, path: Path) -> Iterator[Record]:
    reader = _JsonReader(text, path)
    reader.skip("[")
    while not reader.skip("]"):
        reader.skip_blanks()
        line, value = reader.line, reader.read()
        if not isinstance(value, dict):
            raise BadData("the entry is not an object with id or path", _JSON_REMEDY, where=f"{path}:{line}")
        check_unique_columns(list(value), f"{path}:{line}")
        yield line, value
        reader.skip_comma("]")


def _read_json_object(text: str, path: Path) -> Iterator[Record]:
    """Read an object of ids: to tags, or to objects with columns."""
    reader = _JsonReader(text, path)
    reader.skip("{")
    while not reader.skip("}"):
        key, line = reader.read(), reader.line
        if not isinstance(key, str) or not reader.skip(":"):
            raise reader.fail("a key or a colon is missing")
        value = reader.read()
        _check_not_other_format(key, value, path)
        if isinstance(value, dict) and {normalise_column(name) for name in value} & set(TAG_COLUMNS):
            yield line, {"id": key, **value}
        else:
            yield line, {"id": key, "tags": value}
        reader.skip_comma("}")


def _check_not_other_format(key: str, value: Any, path: Path) -> None:
    """Raise BadData for COCO files and for tables that are stored by columns, whose keys would be read as ids."""
    if key in ("images", "annotations", "categories", "info", "licenses") and isinstance(value, (list, dict)):
        raise BadData(f"the file has the key {key!r}, so it is a COCO file and not a table",
                      f"wsss index coco {path} --images DIR -o OUT.h5", where=str(path))
    if normalise_column(key) in _KNOWN_COLUMNS and isinstance(value, (list, dict)):
        raise BadData(f"the table is stored by columns ({key!r})", 'Write rows: df.to_json(FILE, orient="records")',
                      where=str(path))
