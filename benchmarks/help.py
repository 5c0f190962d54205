"""What `wsss --help` costs, beside a bare interpreter and one that has imported typer: seconds of a process.

    python benchmarks/help.py [--rounds 10]

The programs take turns; the least of all rounds counts. Bound: 0.4 s of wall time for `wsss --help`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

BOUND = 0.4
PROGRAMS = {"python": ("-c", "pass"), "typer": ("-c", "import typer"), "wsss --help": ("-m", "wsss_cli", "--help")}


def seconds(words: tuple[str, ...]) -> tuple[float, float]:
    """Return (wall, processor) seconds of a process."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, processor


def main() -> int:
    """Measure, print a table, and return 1 where the bound is not met."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--rounds", type=int, default=10)
    given = words.parse_args()
    taken = [{name: seconds(program) for name, program in PROGRAMS.items()} for _ in range(given.rounds)]
    least = {name: tuple(min(one[name][place] for one in taken) for place in (0, 1)) for name in PROGRAMS}
    print(f"{'program':12s} {'wall s':>7s} {'CPU s':>7s}")
    for name, (wall, processor) in least.items():
        print(f"{name:12s} {wall:7.3f} {processor:7.3f}")
    met = least["wsss --help"][0] < BOUND
    print(f"wsss --help under {BOUND} s: {'met' if met else 'NOT MET'}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
