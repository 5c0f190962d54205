"""Choose the best of several results of `wsss eval --json`.

    python best.py constant:0.2=crf-0.2.json constant:0.3=crf-0.3.json -o crf.json

Prints the value (constant:0.3) whose result has the highest mIoU, the first of equal ones. With -o it also writes that
result, and records in `background` that the value was chosen on the ground truth, because the scores depend on it.
Needs only the standard library.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def choose_best(candidates: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the RULE:VALUE with the highest mIoU among RULE:VALUE=FILE, and its result. Raises ValueError."""
    results: dict[str, dict[str, Any]] = {}
    for text in candidates:
        value, equals, file = text.partition("=")
        if not equals or ":" not in value:
            raise ValueError(f"{text!r} does not have the form RULE:VALUE=FILE, for example constant:0.3=crf-0.3.json")
        results[value] = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(results[value], dict) or not isinstance(results[value].get("miou"), float):
            raise ValueError(f"{file} is not a result of `wsss eval --json` with an mIoU")
    name = max(results, key=lambda value: results[value]["miou"])
    return name, results[name]


def record_choice(name: str, result: dict[str, Any], num_tried: int) -> dict[str, Any]:
    """Return the result with the chosen background RULE:VALUE and the number of values that were tried."""
    rule, _, value = name.partition(":")
    return {**result, "background": {"rule": rule, "value": float(value), "chosen_on": "ground-truth", "of": num_tried}}


def main() -> int:
    """Choose the best result, print its value, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RULE:VALUE=FILE")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="Write the best result to this file.")
    arguments = parser.parse_args()
    try:
        name, result = choose_best(arguments.results)
        if arguments.output:
            text = json.dumps(record_choice(name, result, len(arguments.results)), indent=1)
            arguments.output.write_text(text + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"best.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
