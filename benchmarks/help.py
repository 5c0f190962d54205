"""Measure `wsss --help`, compared with a bare interpreter and one that only imports typer.

    python benchmarks/help.py [--rounds 10]

The programs take turns, and the fastest round of each counts. Bound: 0.4 s of wall time for `wsss --help`.
"""

from __future__ import annotations

import argparse
import sys

from processes import compare_programs

MAX_SECONDS = 0.4
PROGRAMS = {"python": ("-c", "pass"), "typer": ("-c", "import typer"), "wsss --help": ("-m", "wsss_cli", "--help")}


def main() -> int:
    """Measure, print a table, and return 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    return compare_programs(PROGRAMS, parser.parse_args().rounds, "wsss --help", MAX_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
