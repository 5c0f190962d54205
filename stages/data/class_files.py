"""Read the files in which programs keep class names, each for what it is.

Plain lists, numbered lists and labelme's labels.txt; CVAT's labelmap.txt; tables with a column of names; JSON: lists,
maps between names and numbers, nnU-Net's dataset.json, Hugging Face's config.json, COCO's categories; YAML: YOLO's
data.yaml. Everything else is rejected with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.data.name_forms import clean_name, strip_quotes
from stages.data.tables import check_text
from stages.data.text_files import decode_text, read_bytes, split_lines
from stages.errors import BadData

CVAT_LABEL_MAP = "CVAT's label map"
_NUMBERED = re.compile(r"(?P<number>\d+)\s*[\s:,;=.)]\s*(?P<name>.*\S)")
_NUMBERED_BEHIND = re.compile(r"(?P<name>.*\S)[\s:,;=]+(?P<number>\d+)")
_CVAT_LINE = re.compile(r"(?P<name>[^:]+):\s*(?:\d+\s*,\s*\d+\s*,\s*\d+\s*(?::.*)?|:[^:]*:[^:]*)")
_HEADERS = ("name", "names", "class", "classes", "class_name", "class_names", "class name", "label", "labels")
_NOT_A_NAME = re.compile(r"[{}\[\]\x00]|^<.*>$|^(?:names?|nc|item|train|val|path)\s*[:{]|^\w+ ?= ?")
_NAME_COLUMNS = ("name", "class", "class_name", "label", "category")
_NUMBER_COLUMNS = ("id", "class_id", "label_id", "number", "index", "value")
_LIST_KEYS = ("names", "classes", "class_names", "labels", "categories", "id2label", "label2id", "label_names")
_REMEDY = "Write one name per line, in the order of the ids"


@dataclass(frozen=True)
class ClassEntry:
    """A name in a file of classes: the number that the file gives it, if any, and its place, such as "line 3"."""

    name: str
    number: int | None
    place: str
    is_ignored: bool = False


def read_class_entries(path: Path) -> tuple[list[ClassEntry], str, tuple[str, ...]]:
    """Return (the entries of a file in its order, what kind of file it is, or "" for a plain list, notes for the user).

    Raises MissingInput if there is no such file, BadData with the line of what is no class name.
    """
    text, notes = decode_text(read_bytes(path), path)
    lines = split_lines(text)
    suffix = Path(path).suffix.lower()
    first = lines[0][1] if lines else ""
    if suffix in (".yaml", ".yml") or any(re.match(r"names\s*:", line) for _, line in lines):
        entries, kind = _read_yaml(text, path)
    elif suffix == ".json" or first.startswith(("{", "[")):
        entries, kind = _read_json(text, path)
    else:
        entries, kind = _read_lines(lines, path)
    return [_check_entry(entry, path) for entry in entries], kind, notes


def _check_entry(entry: ClassEntry, path: Path) -> ClassEntry:
    check_text(entry.name, "the class", str(path))
    if not entry.name:
        raise BadData(f"the name in {entry.place} is empty", "Give every class a name", where=str(path))
    return entry


def _read_lines(lines: Sequence[tuple[int, str]], path: Path) -> tuple[list[ClassEntry], str]:
    """Read a list with one class per line, in one of the forms that programs write."""
    lines = [(number, line) for number, line in lines if not line.startswith("#")]
    if any(_CVAT_LINE.fullmatch(line) for _, line in lines):
        return [_read_cvat_line(line, number, path) for number, line in lines], CVAT_LABEL_MAP
    if lines and (columns := _find_columns(lines[0][1])):
        return _read_columns(lines, columns, path), "a table"
    if lines and all(line.startswith("- ") for _, line in lines):
        lines = [(number, line[2:]) for number, line in lines]
    matches = _match_numbers([line for _, line in lines])
    if matches:
        return [_build_entry(match["name"], int(match["number"]), number, path)
                for (number, _), match in zip(lines, matches, strict=True)], "with numbers"
    _check_not_one_line(lines, path)
    if len(lines) > 1 and strip_quotes(clean_name(lines[0][1])).casefold() in _HEADERS:
        return [_build_entry(line, None, number, path) for number, line in lines[1:]], "without its first line"
    return [_build_entry(line, None, number, path) for number, line in lines], ""


def _match_numbers(lines: Sequence[str]) -> list[re.Match[str]]:
    """Return the match of every line if all have a number before their name, or behind it, else nothing.

    Numbers behind different names must count the lines, since "Boeing 737" and "region 1" are names.
    """
    before = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if before and len(before) == len(lines):
        return before
    behind = [match for line in lines if (match := _NUMBERED_BEHIND.fullmatch(line))]
    numbers = sorted(int(match["number"][:9]) for match in behind)
    is_count = numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    return behind if behind and is_count and len({match["name"] for match in behind}) == len(lines) else []


def _read_cvat_line(line: str, number: int, path: Path) -> ClassEntry:
    if not _CVAT_LINE.fullmatch(line):
        raise BadData(f"the line {line[:60]!r} is not a class of CVAT's label map", "Write it as name:red,green,blue::",
                      where=f"{path}:{number}")
    return ClassEntry(clean_name(line.split(":")[0]), None, f"line {number}")


def _build_entry(text: str, number: int | None, line: int, path: Path) -> ClassEntry:
    """Return the entry of a line. Raises BadData for a line of another format."""
    name = strip_quotes(clean_name(text).rstrip(",;").rstrip())
    if _NOT_A_NAME.search(name):
        raise BadData(f"the line {text[:60]!r} is not a class name", _REMEDY, where=f"{path}:{line}")
    return ClassEntry(name, number, f"line {line}")


def _check_not_one_line(lines: Sequence[tuple[int, str]], path: Path) -> None:
    if len(lines) == 1 and re.search(r"[,;|\t]\s*\S", lines[0][1]):
        raise BadData(f"the only line, {lines[0][1][:60]!r}, holds several names", "Write one name per line",
                      where=f"{path}:{lines[0][0]}")


def _find_columns(header: str) -> tuple[str, list[str]] | None:
    """Return (the delimiter, the columns) of a first line such as `id,name` or `name,r,g,b`, else None."""
    for delimiter in (",", ";", "\t"):
        columns = [strip_quotes(clean_name(column)).casefold() for column in header.split(delimiter)]
        if len(columns) > 1 and any(name in columns for name in _NAME_COLUMNS) and (
                {*_NUMBER_COLUMNS, "r", "red"} & set(columns)):
            return delimiter, columns
    return None


def _read_columns(lines: Sequence[tuple[int, str]], header: tuple[str, list[str]], path: Path) -> list[ClassEntry]:
    delimiter, columns = header
    name_column = next(columns.index(name) for name in _NAME_COLUMNS if name in columns)
    number_column = next((columns.index(name) for name in _NUMBER_COLUMNS if name in columns), None)
    entries = []
    for line, text in lines[1:]:
        cells = [cell.strip() for cell in text.split(delimiter)]
        if len(cells) != len(columns):
            raise BadData(f"the row has {len(cells)} cells, but the first line has {len(columns)} columns",
                          _REMEDY, where=f"{path}:{line}")
        number = None if number_column is None else _parse_number(cells[number_column], f"{path}:{line}")
        entries.append(_build_entry(cells[name_column], number, line, path))
    return entries


def _parse_number(value: Any, where: str) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,9}", str(value)):
        raise BadData(f"the number {str(value)[:40]!r} of a class is not a whole number", "Correct it", where=where)
    return int(value)


def _read_json(text: str, path: Path) -> tuple[list[ClassEntry], str]:
    try:
        content = json.loads(text, object_pairs_hook=_keep_pairs)
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid JSON ({error})", 'Write a list such as ["cat", "dog"]',
                      where=str(path)) from error
    return _convert_value(content, path, "JSON")


class _Pairs(list):
    """The (key, value) pairs of a JSON object or YAML mapping, with keys that are repeated."""


def _keep_pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _read_yaml(text: str, path: Path) -> tuple[list[ClassEntry], str]:
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it has aliases, *NAME")  # which can make a small file huge
        content = _convert_node(yaml.compose(text, Loader=yaml.SafeLoader), yaml)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        raise BadData(f"the file is not valid YAML ({getattr(error, 'problem', None) or error})",
                      "Write for example: names: [cat, dog]",
                      where=f"{path}:{mark.line + 1}" if mark else str(path)) from error
    return _convert_value(content, path, "YAML")


def _convert_node(node: Any, yaml: Any) -> Any:
    """Return the lists, pairs and texts of a YAML node: `no` and `1` are names, not values."""
    if isinstance(node, yaml.MappingNode):
        return _Pairs((key.value, _convert_node(value, yaml)) for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_convert_node(item, yaml) for item in node.value]
    return None if node is None else node.value


def _convert_value(content: Any, path: Path, kind: str) -> tuple[list[ClassEntry], str]:
    """Return the entries of a JSON or YAML value: a list, a map, or an object with one of them under a known key."""
    if isinstance(content, _Pairs):
        keys = {str(key).casefold(): value for key, value in content}
        key = next((key for key in _LIST_KEYS if isinstance(keys.get(key), list)), None)
        if key is not None:
            _check_count(keys.get("nc"), keys[key], path)
            return _convert_value(keys[key], path, f"{kind}, {key}")
        return _read_map(content, path), kind
    if isinstance(content, list):
        return [_read_item(item, position, path) for position, item in enumerate(content, 1)], kind
    raise BadData("the file has no list or map of class names", 'Write a list such as ["cat", "dog"]', where=str(path))


def _check_count(count: Any, names: Sequence[Any], path: Path) -> None:
    """Raise BadData if YOLO's number of classes `nc` is not that of the names."""
    if count is not None and str(count) != str(len(names)):
        raise BadData(f"nc is {str(count)[:20]}, but there are {len(names)} names", "Correct one of them",
                      where=str(path))


def _read_item(item: Any, position: int, path: Path) -> ClassEntry:
    """Return the entry of a list: a name, or an object with a name and perhaps an id."""
    place = f"entry {position}"
    if isinstance(item, _Pairs):
        keys = {str(key).casefold(): value for key, value in item}
        name = next((keys[key] for key in _NAME_COLUMNS if key in keys), None)
        number = next((keys[key] for key in _NUMBER_COLUMNS if key in keys), None)
        if isinstance(name, str):
            return ClassEntry(clean_name(name), None if number is None else _parse_number(number, f"{path} ({place})"),
                              place)
    elif isinstance(item, (str, int)) and not isinstance(item, bool):
        return ClassEntry(clean_name(str(item)), None, place)
    raise BadData(f"{place} is not a class name", "Write a list of names", where=str(path))


def _read_map(pairs: _Pairs, path: Path) -> list[ClassEntry]:
    """Return the entries of a map between names and numbers, in either direction."""
    entries = []
    for position, (key, value) in enumerate(pairs, 1):
        place = f"entry {position}"
        is_number = (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) and not re.fullmatch(r"\d{1,9}", str(key)))
        if is_number:
            name, number = str(key), value
        elif isinstance(value, str) and re.fullmatch(r"\d{1,9}", str(key)):
            name, number = value, key
        else:
            raise BadData(f"{place}, {str(key)[:40]!r}, is not a class name with a number",
                          'Write {"background": 0, "cat": 1}, or a list of names', where=str(path))
        name = clean_name(name)
        # nnU-Net calls the label of pixels that are not trained on "ignore".
        entries.append(ClassEntry(name, _parse_number(number, f"{path} ({place})"), place, name == "ignore"))
    return entries
