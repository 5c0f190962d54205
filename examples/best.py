"""Choose the best of several results of `wsss eval --json`.

    python best.py constant:0.2=crf-0.2.json constant:0.3=crf-0.3.json -o crf.json

Prints the value (constant:0.3) whose result has the highest mIoU, the first of equals. With -o the result is
written there with its `background`, chosen on the ground truth: a choice by score looks at the truth of
that index. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def best(given: list[str]) -> tuple[str, dict[str, Any]]:
    """Return (RULE:VALUE, the result) of the highest mIoU among RULE:VALUE=FILE. Raises ValueError."""
    results: dict[str, dict[str, Any]] = {}
    for text in given:
        value, equals, file = text.partition("=")
        if not equals or ":" not in value:
            raise ValueError(f"{text!r} is not RULE:VALUE=FILE")
        results[value] = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(results[value], dict) or not isinstance(results[value].get("miou"), float):
            raise ValueError(f"{file} is no result of wsss eval --json with a mIoU")
    name = max(results, key=lambda value: results[value]["miou"])
    return name, results[name]


def noted(name: str, result: dict[str, Any], tried: int) -> dict[str, Any]:
    """Return the result with the background RULE:VALUE that was chosen for it, and of how many."""
    rule, _, value = name.partition(":")
    return {**result, "background": {"rule": rule, "value": float(value), "chosen_on": "ground-truth", "of": tried}}


def main() -> int:
    """Parse the command line, choose, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", metavar="RULE:VALUE=FILE")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="write the best result here")
    given = parser.parse_args()
    try:
        name, result = best(given.results)
        if given.output:
            text = json.dumps(noted(name, result, len(given.results)), indent=1)
            given.output.write_text(text + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"best.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
