"""Print one table of several results of `wsss eval --json`.

    python table.py "CAM@train=cam.json" "CAM + CRF@train=crf.json" "network@val=seg.json" --markdown

A row is NAME[@SPLIT]=FILE. Rows of equal name and split are runs of several seeds: one row with their mean and,
after +-, the standard deviation (n - 1). Needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

HEADER = ("", "split", "images", "mIoU", "background", "chosen on")
RIGHT = {"images", "mIoU"}
TRUTH = {"ground-truth": "its ground truth", "given": "given"}


def read_rows(given: list[str], *, skip_missing: bool = False) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the results by (name, split), in order. Raises ValueError for what is no NAME=FILE or no result."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for text in given:
        told, equals, file = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not NAME[@SPLIT]=FILE")
        if skip_missing and not Path(file).exists():
            continue
        name, _, split = told.partition("@")
        result = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(result, dict) or "miou" not in result:
            raise ValueError(f"{file} is no result of wsss eval --json")
        rows.setdefault((name, split or "-"), []).append(result)
    return rows


def cells(name: str, split: str, results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the texts of one row, of one result or of several seeds."""
    scores = [100 * result["miou"] for result in results if result["miou"] is not None]
    score = f"{statistics.mean(scores):.1f}" if scores else "-"
    if len(scores) > 1:
        score += f" +- {statistics.stdev(scores):.1f} ({len(scores)} seeds)"
    chosen = [result["background"] for result in results if result.get("background")]
    values = ", ".join(dict.fromkeys(f"{one['rule']}:{one['value']}" for one in chosen))
    where = ", ".join(dict.fromkeys(TRUTH.get(one["chosen_on"], one["chosen_on"]) for one in chosen))
    images = ", ".join(dict.fromkeys(str(result["images"]) for result in results))
    return name, split, images, score, values or "-", where or "-"


def average(name: str, rows: dict[tuple[str, str], list[dict[str, Any]]]) -> tuple[str, ...]:
    """Return the texts of a row with the mean of all rows, in which each counts once."""
    each = [statistics.mean(scores) for results in rows.values()
            if (scores := [100 * result["miou"] for result in results if result["miou"] is not None])]
    return name, f"mean of {len(each)}", "-", f"{statistics.mean(each):.1f}" if each else "-", "-", "-"


def aligned(table: list[tuple[str, ...]]) -> str:
    """Return the table as text, columns aligned, a rule under the header."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.rjust(width) if title in RIGHT else cell.ljust(width)
                       for cell, width, title in zip(row, widths, HEADER, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(table: list[tuple[str, ...]]) -> str:
    """Return the table in Markdown."""
    rules = ["---:" if title in RIGHT else "---" for title in HEADER]
    return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], rules, *table[1:]])


def main() -> int:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="NAME[@SPLIT]=FILE")
    parser.add_argument("--skip-missing", action="store_true", help="leave out rows whose file is not there")
    parser.add_argument("--average", metavar="NAME", help="add a row with the mean of all, by this name")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tsv", action="store_true", help="columns separated by tabs")
    form.add_argument("--markdown", action="store_true", help="a table in Markdown")
    given = parser.parse_args()
    try:
        rows = read_rows(given.rows, skip_missing=given.skip_missing)
    except (OSError, ValueError) as error:
        print(f"table.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    table = [HEADER, *(cells(*key, results) for key, results in rows.items())]
    if given.average:
        table.append(average(given.average, rows))
    as_tsv = "\n".join("\t".join(row) for row in table)
    print(as_tsv if given.tsv else markdown(table) if given.markdown else aligned(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
