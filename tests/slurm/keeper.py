"""Runs the daemons of a private SLURM until its standard input ends; then ends them and all that they started.

    python keeper.py FOLDER munged.log COMMAND... -- slurmctld.log COMMAND... -- slurmd.log COMMAND...

FOLDER is what they write to; it goes with them. The tests hold the other end of that pipe, so that nothing is left
behind however they end: also after `kill -9`.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_END = 5.0


def main(folder: Path, words: list[str]) -> None:
    """Start the daemons, wait for the end of standard input, and clear up."""
    # Daemons of jobs (slurmstepd) leave their parents; with this they become children of the keeper, not of init.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # A limit on the tests signals their whole process group.
    os.setsid()
    for is_end, command in groupby(words, lambda word: word == "--"):
        if not is_end:
            log, *command_line = command
            _start(command_line, Path(log))
    while not (select.select([0], [], [], 0.5)[0] and not os.read(0, 1)):
        _reap()
    for number in (signal.SIGTERM, signal.SIGKILL):
        _end_all(number)
    shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], log: Path) -> None:
    with log.open("wb") as file:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _end_all(number: signal.Signals) -> None:
    """Send a signal to all descendants, and wait until they are gone."""
    deadline = time.monotonic() + _SECONDS_TO_END
    told: set[int] = set()
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left - told:
            _quietly(lambda pid=pid: os.kill(pid, number))
        told |= left
        _reap()
        time.sleep(0.05)


def _reap() -> None:
    while _quietly(lambda: os.waitpid(-1, os.WNOHANG)) not in (None, (0, 0)):
        pass


def _quietly(action: Callable[[], object]) -> object:
    try:
        return action()
    except (ProcessLookupError, ChildProcessError):
        return None


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, without those that have ended."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = place.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state not in "ZX":
            parents[int(place.parent.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
