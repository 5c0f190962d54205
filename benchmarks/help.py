"""What `wsss --help` costs, beside a bare interpreter and one that has imported typer: seconds of a process.

    python benchmarks/help.py [--rounds 10]

The programs take turns; the least of all rounds counts. Bound: 0.4 s of wall time for `wsss --help`.
"""

from __future__ import annotations

import argparse
import sys

from processes import compared

BOUND = 0.4
PROGRAMS = {"python": ("-c", "pass"), "typer": ("-c", "import typer"), "wsss --help": ("-m", "wsss_cli", "--help")}


def main() -> int:
    """Measure, print a table, and return 1 where the bound is not met."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--rounds", type=int, default=10)
    return compared(PROGRAMS, words.parse_args().rounds, "wsss --help", BOUND)


if __name__ == "__main__":
    sys.exit(main())
