"""Run the daemons of a private SLURM until stdin ends; then stop them and everything that they started.

    python keeper.py FOLDER munged.log COMMAND... -- slurmctld.log COMMAND... -- slurmd.log COMMAND...

They write to FOLDER, which is removed with them. The tests hold the other end of the pipe, so that nothing is left
behind however they end, also after `kill -9`.
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
    """Start the daemons, wait for the end of stdin, and clean up."""
    # Daemons of jobs (slurmstepd) leave their parents; this makes them children of the keeper and not of init.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # A time limit on the tests signals their whole process group, which must not include the keeper.
    os.setsid()
    for is_end, command in groupby(words, lambda word: word == "--"):
        if not is_end:
            log, *command_line = command
            _start_daemon(command_line, Path(log))
    while not (select.select([0], [], [], 0.5)[0] and not os.read(0, 1)):
        _reap_children()
    for number in (signal.SIGTERM, signal.SIGKILL):
        _stop_all(number)
    shutil.rmtree(folder, ignore_errors=True)


def _start_daemon(command: list[str], log: Path) -> None:
    with log.open("wb") as file:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _stop_all(number: signal.Signals) -> None:
    """Send a signal to all descendants, and wait until they have ended."""
    deadline = time.monotonic() + _SECONDS_TO_END
    signalled: set[int] = set()
    while (remaining := find_descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in remaining - signalled:
            _try_action(lambda pid=pid: os.kill(pid, number))
        signalled |= remaining
        _reap_children()
        time.sleep(0.05)


def _reap_children() -> None:
    while _try_action(lambda: os.waitpid(-1, os.WNOHANG)) not in (None, (0, 0)):
        pass


def _try_action(action: Callable[[], object]) -> object:
    try:
        return action()
    except (ProcessLookupError, ChildProcessError):
        return None


def find_descendants(pid: int) -> set[int]:
    """Return the running descendants of a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state not in "ZX":
            parents[int(path.parent.name)] = int(parent)
    descendants: set[int] = set()
    while children := {child for child, parent in parents.items() if parent in descendants | {pid}} - descendants:
        descendants |= children
    return descendants


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
