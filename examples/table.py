"""Print a table of several results of `wsss eval --json`.

    python table.py "CAM@train=cam.json" "CAM + CRF@train=crf.json" "network@val=seg.json" --markdown

A row is NAME[@SPLIT]=FILE. Rows with the same name and split are several seeds; they give one row with their mean and,
after +-, the standard deviation (n - 1). Needs only the standard library.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

HEADER = ("", "split", "images", "mIoU", "background", "chosen on")
RIGHT_ALIGNED = {"images", "mIoU"}
BACKGROUND_SOURCES = {"ground-truth": "its ground truth", "given": "given"}


def read_rows(specifications: list[str], *, skip_missing: bool = False) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the results by (name, split), in order. Raises ValueError for an invalid NAME[@SPLIT]=FILE or result."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for text in specifications:
        label, equals, file = text.partition("=")
        if not equals:
            raise ValueError(f"{text!r} does not have the form NAME[@SPLIT]=FILE, for example CAM@train=cam.json")
        if skip_missing and not Path(file).exists():
            continue
        name, _, split = label.partition("@")
        result = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(result, dict) or "miou" not in result:
            raise ValueError(f"{file} is not a result of `wsss eval --json`")
        rows.setdefault((name, split or "-"), []).append(result)
    return rows


def format_row(name: str, split: str, results: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the cells of a row for one result, or for several seeds."""
    scores = [100 * result["miou"] for result in results if result["miou"] is not None]
    score = f"{statistics.mean(scores):.1f}" if scores else "-"
    if len(scores) > 1:
        score += f" +- {statistics.stdev(scores):.1f} ({len(scores)} seeds)"
    backgrounds = [result["background"] for result in results if result.get("background")]
    values = ", ".join(dict.fromkeys(f"{background['rule']}:{background['value']}" for background in backgrounds))
    sources = ", ".join(dict.fromkeys(BACKGROUND_SOURCES.get(background["chosen_on"], background["chosen_on"])
                                      for background in backgrounds))
    images = ", ".join(dict.fromkeys(str(result["images"]) for result in results))
    return name, split, images, score, values or "-", sources or "-"


def average_rows(name: str, rows: dict[tuple[str, str], list[dict[str, Any]]]) -> tuple[str, ...]:
    """Return the cells of a row with the mean over all rows, each of which counts once."""
    means = [statistics.mean(scores) for results in rows.values()
             if (scores := [100 * result["miou"] for result in results if result["miou"] is not None])]
    return name, f"mean of {len(means)}", "-", f"{statistics.mean(means):.1f}" if means else "-", "-", "-"


def format_aligned(table: list[tuple[str, ...]]) -> str:
    """Return the table as text with aligned columns and a line under the header."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.rjust(width) if title in RIGHT_ALIGNED else cell.ljust(width)
                       for cell, width, title in zip(row, widths, HEADER, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def format_markdown(table: list[tuple[str, ...]]) -> str:
    """Return the table in Markdown."""
    rules = ["---:" if title in RIGHT_ALIGNED else "---" for title in HEADER]
    return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], rules, *table[1:]])


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="NAME[@SPLIT]=FILE")
    parser.add_argument("--skip-missing", action="store_true", help="Skip rows whose file does not exist.")
    parser.add_argument("--average", metavar="NAME", help="Add a row with this name and the mean of all rows.")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tsv", action="store_true", help="Separate the columns by tabs.")
    form.add_argument("--markdown", action="store_true", help="Print a Markdown table.")
    arguments = parser.parse_args()
    try:
        rows = read_rows(arguments.rows, skip_missing=arguments.skip_missing)
    except (OSError, ValueError) as error:
        print(f"table.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    table = [HEADER, *(format_row(*key, results) for key, results in rows.items())]
    if arguments.average:
        table.append(average_rows(arguments.average, rows))
    as_tsv = "\n".join("\t".join(row) for row in table)
    print(as_tsv if arguments.tsv else format_markdown(table) if arguments.markdown else format_aligned(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
