"""Format descriptions of runs and trainings: text for people, and rows for tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from stages.data.curve_plots import format_number

_LABEL_WIDTH = 13
_LEADING = ("epoch", "step", "seconds", "waited", "loss", "map")
_PART_COLUMNS = ("file", "state", "images", "failed", "seconds", "time", "host")
_MAX_LISTED_PARTS = 20
_MAX_EPOCHS = 40


def format_description(description: Mapping[str, Any], columns: int) -> str:
    """Return the summary of a run or training and the table of its epochs or parts, at most `columns` wide."""
    is_run = description["type"] == "run"
    fields = _list_run_fields(description) if is_run else _list_training_fields(description)
    lines = textwrap.wrap(description["path"], columns, break_long_words=True) or [""]
    for name, value in fields:
        indent = " " * (_LABEL_WIDTH + 2)
        lines += textwrap.wrap(value, max(20, columns), initial_indent=f"  {name:<{_LABEL_WIDTH}}",
                               subsequent_indent=indent, break_on_hyphens=False)
    table = _format_parts(description["parts"], columns) if is_run else format_epochs(description["lines"], columns)
    return "\n".join([*lines, *([""] if table else []), *table])


def _list_training_fields(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, lines = description.get("settings", {}), description["lines"]
    steps = "" if description["step"] is None else f"; the checkpoint is after step {description['step']}"
    epochs = f"{len(lines)} logged" + (f" of {config['epochs']} epochs" if config.get("epochs") else " lines")
    return [*([("command", f"wsss {description['stage']}")] if description.get("stage") else []),
            ("state", f"{description['state']}{steps}"), ("progress", epochs),
            ("last change", _add_origin(description["last_written"], "the time of the log file")),
            ("start", "not recorded"),
            ("took", "unknown" if description["seconds"] is None else
             f"{format_duration(description['seconds'])} (sum of the logged epochs)"),
            *_list_settings(config), *(("note", note) for note in description["notes"])]


def _list_run_fields(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = [f"{description['num_done']} of {description['num_parts']} parts done"]
    counts += [f"{description[f'num_{state}']} {state}" for state in ("unfinished", "missing")
               if description[f"num_{state}"]]
    failed = f"{description['images']}, of which {description['failed']} failed"
    if description["num_unfinished"]:
        failed += " (failures in unfinished parts are not counted)"
    return [*([("command", f"wsss {description['stage']}")] if description["stage"] else []),
            ("state", description["state"]), ("progress", ", ".join(counts)), ("images", failed),
            ("written", f"{description['first_written']} to {description['last_written']}"
             if description["last_written"] else "unknown"),
            ("took", "unknown" if description["seconds"] is None else
             f"{format_duration(description['seconds'])} (sum over the parts, which may have run side by side)"),
            *_list_settings(description["settings"]), *(("note", note) for note in description["notes"])]


def _add_origin(value: str | None, origin: str) -> str:
    return "unknown" if value is None else f"{value} ({origin})"


def _list_settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings in one field. Of an empty setting nothing is said."""
    listed = ", ".join(f"{name}={_format_setting(value)}" for name, value in config.items()
                       if value not in (None, "", []))
    return [("settings", listed)] if listed else []


def _format_setting(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def list_quantities(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the numbers in the lines of a log: epoch, step, seconds, loss and map first, lr last."""
    names = dict.fromkeys(name for line in lines for name, value in line.items() if isinstance(value, (int, float)))
    return [*(name for name in _LEADING if name in names),
            *(name for name in names if name not in (*_LEADING, "lr")), *(["lr"] if "lr" in names else [])]


def format_epochs(lines: Sequence[Mapping[str, Any]], columns: int) -> list[str]:
    """Return a table of the epochs, divided into several below each other where it is wider than `columns`.

    Of a long training it has evenly spread lines only.
    """
    if not lines:
        return []
    shown = lines if len(lines) <= _MAX_EPOCHS else [
        lines[round(index * (len(lines) - 1) / (_MAX_EPOCHS - 1))] for index in range(_MAX_EPOCHS)]
    names = list_quantities(shown)
    key = "epoch" if "epoch" in names else "step"
    cells = {name: [name, *(_format_cell(line.get(name)) for line in shown)] for name in names}
    widths = {name: max(map(len, column)) for name, column in cells.items()}
    blocks: list[list[str]] = [[key]]
    for name in (name for name in names if name != key):
        if len(blocks[-1]) > 1 and sum(widths[column] + 2 for column in (*blocks[-1], name)) - 2 > columns:
            blocks.append([key])
        blocks[-1].append(name)
    tables = [["  ".join(cells[name][row].rjust(widths[name]) for name in block) for row in range(len(shown) + 1)]
              for block in blocks]
    note = [] if shown is lines else [f"{len(shown)} of {len(lines)} lines; --format tsv prints all."]
    return [line for index, table in enumerate(tables) for line in ([""] if index else []) + table] + note


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    return format_number(value) if isinstance(value, float) else str(value)


def _format_parts(parts: Sequence[Mapping[str, Any]], columns: int) -> list[str]:
    """Return a table of the unfinished parts, and of those with failed images: the others are counted above."""
    listed = [part for part in parts if part["state"] != "done" or part["failed"]]
    rows = [("part", "state", "images", "failed"), *(
        (str(part["part"]), part["state"], str(part["images"]), _format_cell(part["failed"]))
        for part in listed[:_MAX_LISTED_PARTS])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    more = [f"... and {len(listed) - _MAX_LISTED_PARTS} more"] if len(listed) > _MAX_LISTED_PARTS else []
    return [] if not listed else ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                                  [:columns] for row in rows] + more


def build_table(descriptions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return rows, of which the first is the header: one per epoch of trainings, or one per part of runs."""
    if descriptions[0]["type"] == "run":
        names: list[str] = list(_PART_COLUMNS)
        items = [(description["path"], part) for description in descriptions for part in description["parts"]]
    else:
        items = [(description["path"], line) for description in descriptions for line in description["lines"]]
        names = list_quantities([line for _, line in items])
    return [["path", *names], *([path, *("" if item.get(name) is None else str(item[name]) for name in names)]
                                for path, item in items)]


def format_line(item: Mapping[str, Any]) -> str:
    """Return one line about an epoch or a part, for --follow."""
    if "step" in item:
        return "  ".join(f"{name} {_format_cell(item[name])}" for name in list_quantities([item]))
    failed = "" if item["failed"] is None else f", {item['failed']} failed"
    took = "" if item.get("seconds") is None else f", {format_duration(item['seconds'])}"
    return f"{item['file']}: {item['state']}, {item['images']} images{failed}{took}"


def format_duration(seconds: float) -> str:
    """Return a duration such as 8.2 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
