"""Seconds of processes that take turns; the least of all rounds counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def compared(programs: Mapping[str, tuple[str, ...]], rounds: int, measured: str, bound: float) -> int:
    """Print (wall, processor) seconds of Python with each of the words; return 1 where `measured` is over the bound."""
    taken = [{name: _seconds(words) for name, words in programs.items()} for _ in range(rounds)]
    least = {name: tuple(min(one[name][place] for one in taken) for place in (0, 1)) for name in programs}
    print(f"{'program':12s} {'wall s':>7s} {'CPU s':>7s}")
    for name, (wall, processor) in least.items():
        print(f"{name:12s} {wall:7.3f} {processor:7.3f}")
    met = least[measured][0] < bound
    print(f"{measured} under {bound} s: {'met' if met else 'NOT MET'}")
    return int(not met)


def _seconds(words: tuple[str, ...]) -> tuple[float, float]:
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, processor
