"""Compare the run times of processes that take turns; the fastest round of each counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from results import Result, record_results

ROOT = Path(__file__).resolve().parents[1]


def compare_programs(programs: Mapping[str, tuple[str, ...]], rounds: int, measured: str, bound: float) -> int:
    """Print the wall and CPU seconds of Python with each argument list; return 1 if `measured` exceeds the bound."""
    timings = [{name: measure_seconds(arguments) for name, arguments in programs.items()} for _ in range(rounds)]
    fastest = {name: tuple(min(timing[name][index] for timing in timings) for index in (0, 1)) for name in programs}
    print(f"{'program':12s} {'wall s':>7s} {'CPU s':>7s}")
    for name, (wall, processor) in fastest.items():
        print(f"{name:12s} {wall:7.3f} {processor:7.3f}")
    met = fastest[measured][0] < bound
    print(f"{measured} under {bound} s: {'met' if met else 'NOT MET'}")
    return record_results(Result(measured, fastest[measured][0], "wall s", bound),
                          Result(f"{measured}, CPU", fastest[measured][1], "CPU s"))


def measure_seconds(arguments: tuple[str, ...]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a Python process."""
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, processor
