"""Choose the columns of a table that hold ids, paths and tags. Errors name the columns and the options that choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.data.column_names import (
    CAPTION_COLUMNS,
    ID_COLUMNS,
    PATH_COLUMNS,
    TAG_COLUMNS,
    find_columns,
    normalise_column,
)
from stages.data.table_text import Record
from stages.errors import BadData

INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def choose_id_columns(columns: Sequence[str], choice: str, path: Path, *, has_options: bool) -> dict[str, str]:
    """Return the columns that become `id` and `path`: at least one of them. Raises BadData for none or too many."""
    if choice:
        column = _find_chosen(columns, choice, "--id-column", path)
        return {"id" if normalise_column(column) in ID_COLUMNS else "path": column}
    chosen = {}
    for field, names in (("id", ID_COLUMNS), ("path", PATH_COLUMNS)):
        candidates = find_columns(columns, names)
        if len(candidates) > 1:
            option = f", or choose one with --id-column {_quote(candidates[0])}" if has_options else ""
            raise BadData(f"the columns {join_columns(candidates)} could all hold the {field}s of the images",
                          f"Rename or remove the others{option}", where=str(path))
        if candidates:
            chosen[field] = candidates[0]
    if not chosen:
        option = ", or choose one with --id-column NAME" if has_options else ""
        raise BadData(f"there is no column id or path, only {', '.join(map(format_column, columns))}",
                      f"Name the columns in the first line, for example id,labels{option}", where=str(path))
    return chosen


def choose_tags_column(columns: Sequence[str], choice: str, path: Path, *, has_options: bool) -> str | None:
    if choice:
        return _find_chosen(columns, choice, "--tags-column", path)
    candidates = find_columns(columns, TAG_COLUMNS)
    if len(candidates) > 1:
        option = f"Choose one with --tags-column {_quote(candidates[0])}" if has_options else "Rename or remove one"
        raise BadData(f"the columns {join_columns(candidates)} could both hold the tags", option, where=str(path))
    return candidates[0] if candidates else None


def _find_chosen(columns: Sequence[str], choice: str, option: str, path: Path) -> str:
    exact = [column for column in columns if column == choice]
    matches = exact or [column for column in columns if normalise_column(column) == normalise_column(choice)]
    if not matches:
        raise BadData(f"there is no column {choice!r} ({option}), only {', '.join(map(format_column, columns))}",
                      f"Use {option} with one of these", where=str(path))
    return matches[0]


def find_indicator_columns(
    records: Iterable[Record], columns: Sequence[str], ids: dict[str, str]
) -> tuple[list[str], str]:
    """Return (the columns besides ids and captions if all of them hold 0 or 1 in every row, else none; a hint why)."""
    captions = find_columns(columns, CAPTION_COLUMNS)
    others = [column for column in columns if column not in ids.values() and column not in captions]
    first: dict[str, str] = {}
    for line, record in records:
        for column in others:
            if str(record.get(column)).strip().casefold() not in INDICATORS:
                first.setdefault(column, f"{record.get(column)!r} in line {line}")
    if not first:
        return others, ""
    indicator = next((column for column in others if column not in first), None)
    column, value = next(iter(first.items()))
    if indicator is None:
        return [], ""
    return [], f"; {format_column(indicator)} holds 0 and 1, but {format_column(column)} has {value}"


def format_column(column: str) -> str:
    """Return the name of a column in a form that every terminal can print."""
    return column.encode("utf-8", "backslashreplace").decode()


def join_columns(columns: Sequence[str]) -> str:
    shown = [repr(format_column(column)) for column in columns]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _quote(column: str) -> str:
    return f"'{format_column(column)}'" if re.search(r"\W", column) else column
