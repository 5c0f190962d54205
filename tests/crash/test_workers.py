"""The same with two worker processes: a death of all, of one worker alone, and calls that fail in a worker."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.runner import refused
from crash.commands import Ended, Server
from crash.promises import Whole, goes_on, is_log, only_whole_files, sample

Of = Callable[[str], Whole]
TWO = ("-j", "2")
_PATIENCE = 60.0  # seconds until a command that does not do what it should is let go
everywhere = [pytest.param("cams-cnn", 1, True, marks=pytest.mark.crash)]
# Workers as the command starts them import torch anew: seconds for each.
spawned = [pytest.param("cams-cnn", 9, False, marks=pytest.mark.crash)]


def _run(server: Server, one: Whole, forks: bool, how: str, number: int, error: int = 0) -> Ended:
    server.fresh()
    return server.run((*one.command.args, *TWO), how, number, error, forks=forks)


@pytest.mark.parametrize(("name", "every", "forks"), [("pseudo", 11, True), *everywhere, *spawned])
def test_all_killed_at_a_call_of_a_worker(server: Server, whole: Of, name: str, every: int, forks: bool) -> None:
    one = whole(name)
    for number in sample(one.ended.calls, every)[:-1]:
        killed = _run(server, one, forks, "kill", number)
        assert killed.code == -9, (number, killed.err)
        assert len({call["pid"] for call in killed.calls} - {killed.pid}) > 0, "it is the workers that write"
        only_whole_files(server, one)
        goes_on(server, one, killed, workers=2, all_counted=forks)


@pytest.mark.parametrize(("name", "every", "forks"), [("pseudo", 13, True), *everywhere, *spawned])
def test_one_worker_killed_is_told_and_the_command_can_be_run_again(server: Server, whole: Of, name: str, every: int,
                                                                    forks: bool) -> None:
    one = whole(name)
    for number in sample(one.ended.calls, every)[:-1]:
        killed = _run(server, one, forks, "kill-process", number)
        refused(killed, 74, "a worker process was ended", "run the same command again")
        only_whole_files(server, one)
        goes_on(server, one, killed, workers=2, all_counted=forks)


def _kill_the_one_that_waits(notes: Path, last: int) -> None:
    """Kill the worker that has done its part while the other is stopped in its own; then let that one go on."""
    stopped: list[int] = []
    through: list[int] = []
    end = time.monotonic() + _PATIENCE
    while not (stopped and through):
        if time.monotonic() > end:
            break  # the command ends otherwise than it should, and the checks tell
        time.sleep(0.05)
        lines = notes.read_text().splitlines() if notes.exists() else []
        calls = [note for note in map(json.loads, lines) if "number" in note]
        stopped = [call["pid"] for call in calls if call["number"] == last]
        through = [call["pid"] for call in calls if call["path"].endswith("log.jsonl") and call["call"] == "write"]
    time.sleep(0.5)
    for number, pids in ((signal.SIGKILL, through), (signal.SIGCONT, stopped)):
        for pid in pids[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.5)


def test_a_worker_killed_while_it_waits_for_work_does_not_hold_up_the_others(server: Server, whole: Of) -> None:
    """It holds the lock of the queue that they wait at."""
    one, last = whole("pseudo"), 12
    server.fresh()
    helper = threading.Thread(target=_kill_the_one_that_waits, args=(server.next_notes, last), daemon=True)
    helper.start()
    killed = _run(server, one, True, "pause", last)
    helper.join(_PATIENCE)
    refused(killed, 74, "a worker process was ended")
    goes_on(server, one, killed, workers=2)


@pytest.mark.parametrize(("name", "every", "forks"), [*everywhere, *spawned])
@pytest.mark.parametrize("how", ["fail", "full"])
def test_a_call_that_fails_in_a_worker_is_told_in_one_line(server: Server, whole: Of, name: str, every: int,
                                                           forks: bool, how: str) -> None:
    one = whole(name)
    for number in sample(one.ended.calls, every)[:-1]:
        failed = _run(server, one, forks, how, number, errno.ENOSPC)
        if failed.code != 0:
            refused(failed, 74, "No space left on device", "is kept")
        else:
            assert how == "full" or is_log(failed.calls[number - 1]), (number, failed.calls[number - 1])
        only_whole_files(server, one)
        goes_on(server, one, failed, workers=2, all_counted=forks)
