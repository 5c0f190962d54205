"""Faults with two worker processes: all are killed, one worker is killed, and calls fail in a worker."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cli.runner import check_error
from crash.commands import Outcome, Server
from crash.invariants import RunUndisturbed, UndisturbedRun, check_resume, check_whole_files, is_log, sample_calls

TWO = ("-j", "2")
_PATIENCE = 60.0  # seconds to wait for an expected call
everywhere = [pytest.param("cams-cnn", 1, True, marks=pytest.mark.crash)]
# Spawned workers, as in normal use, import torch again, which takes seconds.
spawned = [pytest.param("cams-cnn", 9, False, marks=pytest.mark.crash)]


def run_with_fault(server: Server, expected: UndisturbedRun, forks: bool, fault: str, number: int,
                   errno_value: int = 0) -> Outcome:
    server.clear_work()
    return server.run((*expected.command.args, *TWO), fault, number, errno_value, forks=forks)


@pytest.mark.parametrize(("name", "step", "forks"), [("pseudo", 11, True), *everywhere, *spawned])
def test_resumes_after_all_processes_were_killed(server: Server, undisturbed: RunUndisturbed, name: str, step: int,
                                                 forks: bool) -> None:
    expected = undisturbed(name)
    for number in sample_calls(expected.outcome.calls, step)[:-1]:
        killed = run_with_fault(server, expected, forks, "kill", number)
        assert killed.code == -9, (number, killed.err)
        assert len({call["pid"] for call in killed.calls} - {killed.pid}) > 0, "the workers did not write"
        check_whole_files(server, expected)
        check_resume(server, expected, killed, num_workers=2, all_counted=forks)


@pytest.mark.parametrize(("name", "step", "forks"), [("pseudo", 13, True), *everywhere, *spawned])
def test_reports_and_resumes_after_a_killed_worker(server: Server, undisturbed: RunUndisturbed, name: str, step: int,
                                                   forks: bool) -> None:
    expected = undisturbed(name)
    for number in sample_calls(expected.outcome.calls, step)[:-1]:
        killed = run_with_fault(server, expected, forks, "kill-process", number)
        check_error(killed, 74, "a worker process was killed", "Run the same command again")
        check_whole_files(server, expected)
        check_resume(server, expected, killed, num_workers=2, all_counted=forks)


def kill_waiting_worker(notes_path: Path, last_call: int) -> None:
    """Kill the worker that has finished its part while the other is paused, and then continue the other."""
    stopped_pids: list[int] = []
    waiting_pids: list[int] = []
    end = time.monotonic() + _PATIENCE
    while not (stopped_pids and waiting_pids):
        if time.monotonic() > end:
            break  # the checks of the test report what happened
        time.sleep(0.05)
        lines = notes_path.read_text().splitlines() if notes_path.exists() else []
        calls = [note for note in map(json.loads, lines) if "number" in note]
        stopped_pids = [call["pid"] for call in calls if call["number"] == last_call]
        waiting_pids = [call["pid"] for call in calls if call["path"].endswith("log.jsonl") and call["call"] == "write"]
    time.sleep(0.5)
    for number, pids in ((signal.SIGKILL, waiting_pids), (signal.SIGCONT, stopped_pids)):
        for pid in pids[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.5)


def test_killed_idle_worker_does_not_block_the_others(server: Server, undisturbed: RunUndisturbed) -> None:
    """An idle worker holds the lock of the queue at which the others wait."""
    expected, last_call = undisturbed("pseudo"), 12
    server.clear_work()
    helper = threading.Thread(target=kill_waiting_worker, args=(server.next_notes, last_call), daemon=True)
    helper.start()
    killed = run_with_fault(server, expected, True, "pause", last_call)
    helper.join(_PATIENCE)
    check_error(killed, 74, "a worker process was killed")
    check_resume(server, expected, killed, num_workers=2)


@pytest.mark.parametrize(("name", "step", "forks"), [*everywhere, *spawned])
@pytest.mark.parametrize("fault", ["fail", "full"])
def test_reports_a_failed_call_of_a_worker(server: Server, undisturbed: RunUndisturbed, name: str, step: int,
                                           forks: bool, fault: str) -> None:
    expected = undisturbed(name)
    for number in sample_calls(expected.outcome.calls, step)[:-1]:
        failed = run_with_fault(server, expected, forks, fault, number, errno.ENOSPC)
        if failed.code != 0:
            check_error(failed, 74, "No space left on device", "is kept")
        else:
            assert fault == "full" or is_log(failed.calls[number - 1]), (number, failed.calls[number - 1])
        check_whole_files(server, expected)
        check_resume(server, expected, failed, num_workers=2, all_counted=forks)
