"""Choose prompt templates at random from a result of `wsss prompts --json`.

    python pick_templates.py templates.json --count 20 --seed 0 --first "a clean origami {}." -o chosen.txt

Writes one template per line: `--first`, then `--count` others. Equal arguments choose the same templates whatever the
order of the result, which depends on the images. Needs only the standard library.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path


def pick_templates(path: Path, *, count: int, seed: int, first: str) -> list[str]:
    """Return `first` and `count` others of the result. Raises OSError, or ValueError if there are fewer."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or not isinstance(result.get("templates"), list):
        raise ValueError(f"{path} is not a result of `wsss prompts --json`")
    others = sorted({row["template"] for row in result["templates"]} - {first})
    if count > len(others):
        raise ValueError(f"{path} has {len(others)} templates besides {first!r}, fewer than --count {count}. Use a "
                         "smaller --count.")
    return [first, *random.Random(seed).sample(others, count)]


def main() -> int:
    """Write the templates and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, metavar="FILE.json")
    parser.add_argument("--count", type=int, default=20, help="Number of templates besides the first (default 20).")
    parser.add_argument("--seed", type=int, default=0, help="Random seed (default 0).")
    parser.add_argument("--first", required=True, metavar="TEMPLATE", help="Template for the first line.")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.txt")
    arguments = parser.parse_args()
    try:
        templates = pick_templates(arguments.result, count=arguments.count, seed=arguments.seed, first=arguments.first)
        arguments.output.write_text("".join(f"{template}\n" for template in templates), encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"pick_templates.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    return 0


if __name__ == "__main__":
    sys.exit(main())
