"""Turns the result of `eval` into tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Table = list[tuple[str, ...]]
_MOST_CLASSES, _SHOWN_CLASSES = 25, 10


def build_tables(result: dict[str, Any], *, all_classes: bool) -> list[Table]:
    """Return the tables of a result: that of one run, or the runs and the classes of a comparison."""
    if "runs" in result:
        tables = [_build_run_table(result), _build_class_table(result, all_classes=all_classes)]
    else:
        tables = [_build_table_of_one(result)]
    tables += [_build_reliability_table(run) for run in result.get("runs", [result]) if "reliability" in run]
    if "worst" in result:
        tables.append([("worst images",), (",".join(result["worst"]) or "-",)])
    return tables


def describe_shown_classes(result: dict[str, Any], *, all_classes: bool) -> str:
    """Return which classes a comparison shows, if it does not show all of them, else ""."""
    num_classes = len(result["runs"][0]["per_class"]) if "runs" in result else 0
    if all_classes or num_classes <= _MOST_CLASSES:
        return ""
    return (f"The table has the {_SHOWN_CLASSES} of {num_classes} classes that differ most. Use --per-class for all, "
            "or --json.")


def _build_table_of_one(result: dict[str, Any]) -> Table:
    background, has_boundary = result["background"], "boundary_per_class" in result
    columns = ("boundary IoU",) if has_boundary else ()
    rows: Table = [("class", "IoU", *columns)]
    for name, value in result["per_class"].items():
        boundary = (format_percent(result["boundary_per_class"][name]),) if has_boundary else ()
        rows.append((name, format_percent(value), *boundary))
    boundary = (format_percent(result["boundary_miou"]),) if has_boundary else ()
    rows.append(("mIoU", format_percent(result["miou"]), *boundary))
    notes = [("images", str(result["images"]))]
    if "interval" in result:
        notes.insert(0, (f"{format_level(result)} interval", format_interval(result["interval"])))
    if "calibration_error" in result:
        notes.append(("calibration error", format_percent(result["calibration_error"])))
    if background:
        notes.append(("background score",
                      f"{background['rule']}:{background['value']} ({background['chosen_on']})"))
    notes.append(("rule", result["rule"]))
    return rows + [(*note, *("" for _ in columns)) for note in notes]


def _build_run_table(result: dict[str, Any]) -> Table:
    """Return one row per run: mIoU, its interval, and the difference from the first."""
    level = format_level(result)
    has_boundary, has_calibration = "boundary_miou" in result["runs"][0], "calibration_error" in result["runs"][0]
    has_seeds = any("seeds" in run for run in result["runs"])
    header = ["run", "mIoU", *(["sd"] if has_seeds else []), f"{level} interval", "diff", f"{level} of diff", "better"]
    rows = [(*header, *(["boundary"] if has_boundary else []), *(["ECE"] if has_calibration else []))]
    for run, difference in zip(result["runs"], [None, *result["differences"]], strict=True):
        cells = [run["name"], format_points(run["miou"])]
        if has_seeds:
            cells.append(format_points(run.get("standard_deviation")))
        cells.append(format_interval(run["interval"]))
        cells += ["", "", ""] if difference is None else [
            format_points(difference["difference"], "+"), format_interval(difference["interval"], "+"),
            format_share(difference["better"])]
        cells += [format_points(run["boundary_miou"])] if has_boundary else []
        rows.append((*cells, *([format_points(run["calibration_error"])] if has_calibration else [])))
    return rows


def _build_class_table(result: dict[str, Any], *, all_classes: bool) -> Table:
    """Return one row per class: the IoU in each run, and for two runs the difference and its interval."""
    runs, differences = result["runs"], result["differences"]
    is_pair = len(runs) == 2
    rows: Table = [("class", *(run["name"] for run in runs),
                    *(("diff", f"{format_level(result)} of diff") if is_pair else ()))]
    for name in select_classes(result, all_classes=all_classes):
        cells = [name, *(format_points(run["per_class"][name]) for run in runs)]
        if is_pair:
            difference = differences[0]["per_class"][name]
            cells += [format_points(difference["difference"], "+"), format_interval(difference["interval"], "+")]
        rows.append(tuple(cells))
    return rows


def select_classes(result: dict[str, Any], *, all_classes: bool) -> Sequence[str]:
    """Return all classes, or of many those that differ most from the first run, in the order of the classes."""
    names = list(result["runs"][0]["per_class"])
    if all_classes or len(names) <= _MOST_CLASSES or not result["differences"]:
        return names

    def find_largest_change(name: str) -> float:
        return max(abs(difference["per_class"][name]["difference"] or 0) for difference in result["differences"])

    chosen = set(sorted(names, key=find_largest_change, reverse=True)[:_SHOWN_CLASSES])
    return [name for name in names if name in chosen]


def _build_reliability_table(run: dict[str, Any]) -> Table:
    """Return how often pixels of each confidence are right."""
    title = f"confidence of {run['name']}" if "name" in run else "confidence"
    return [(title, "pixels", "mean confidence", "right"),
            *((f"{row['low']:.1f} to {row['high']:.1f}", str(row["pixels"]), format_percent(row["confidence"]),
               format_percent(row["accuracy"])) for row in run["reliability"] if row["pixels"])]


def format_level(result: dict[str, Any]) -> str:
    """Return the level of intervals, such as "95 %"."""
    return f"{result['interval_level']:.3%}".rstrip("%").rstrip("0").rstrip(".") + " %"


def format_percent(value: float | None) -> str:
    """Return a share in percent with its sign, or a dash."""
    return "-" if value is None else f"{value:.2%}"


def format_share(value: float | None) -> str:
    """Return a share in whole percent, or a dash."""
    return "-" if value is None else f"{value:.0%}"


def format_points(value: float | None, sign: str = "") -> str:
    """Return a share as points of 100 with one digit, or a dash."""
    return "-" if value is None else format(value, f"{sign}.1%").rstrip("%")


def format_interval(values: Sequence[float | None], sign: str = "") -> str:
    """Return an interval as "40.1 to 42.0", or a dash."""
    return "-" if values[0] is None else f"{format_points(values[0], sign)} to {format_points(values[1], sign)}"
