"""A fault at every call by which a command changes the disk, one after the other, as in SQLite's tests.

`make test` covers a few calls of a few commands, `make test-crash` every call of every command.
"""

from __future__ import annotations

import errno
import signal

import pytest

from cli.runner import check_error
from crash.commands import Server
from crash.invariants import (
    RunUndisturbed,
    check_resume,
    check_same_files,
    check_whole_files,
    has_written_all,
    is_log,
    needs_space,
    sample_calls,
)
from crash.scenarios import COMMANDS

everywhere = [pytest.param(name, 1, marks=pytest.mark.crash) for name in COMMANDS]


@pytest.mark.parametrize(("name", "step"), [("cams-cnn", 4), ("train-cls", 5), *everywhere])
def test_resumes_after_kill(server: Server, undisturbed: RunUndisturbed, name: str, step: int) -> None:
    expected = undisturbed(name)
    for number in sample_calls(expected.outcome.calls, step):
        server.clear_work()
        killed = server.run(expected.command.args, "kill", number)
        if number > len(expected.outcome.calls):
            assert killed.code == 0, killed.err
            check_same_files(server, expected)
        else:
            assert killed.code == -9, (number, killed.err)
            check_whole_files(server, expected)
            check_resume(server, expected, killed)


@pytest.mark.parametrize(("name", "step"), [("cams-cnn", 5), ("eval", 1), *everywhere])
def test_resumes_after_a_failed_call(server: Server, undisturbed: RunUndisturbed, name: str,
                                     step: int) -> None:
    expected = undisturbed(name)
    for number in sample_calls(expected.outcome.calls, step)[:-1]:
        server.clear_work()
        failed = server.run(expected.command.args, "fail", number, errno.EIO)
        if is_log(expected.outcome.calls[number - 1]):
            assert failed.code == 0, (number, failed.err)
        else:
            check_error(failed, 74, "Input/output error", "is kept")
        check_whole_files(server, expected)
        check_resume(server, expected, failed)


@pytest.mark.parametrize(("name", "step"), [("train-cls", 6), *everywhere])
def test_resumes_after_the_disk_was_full(server: Server, undisturbed: RunUndisturbed, name: str,
                                         step: int) -> None:
    expected = undisturbed(name)
    calls = expected.outcome.calls
    for number in sample_calls(calls, step)[:-1]:
        if not needs_space(calls[number - 1]):
            continue
        server.clear_work()
        failed = server.run(expected.command.args, "full", number, errno.ENOSPC)
        if not has_written_all(failed, number):
            check_error(failed, 74, "No space left on device", "is kept")
        check_whole_files(server, expected)
        check_resume(server, expected, failed)


@pytest.mark.parametrize(("name", "step"), [("cams-cnn", 3), *everywhere])
def test_continues_short_writes(server: Server, undisturbed: RunUndisturbed, name: str, step: int) -> None:
    expected = undisturbed(name)
    for number in sample_calls(expected.outcome.calls, step)[:-1]:
        if expected.outcome.calls[number - 1]["call"] == "write":
            server.clear_work()
            done = server.run(expected.command.args, "short", number)
            assert (done.code, done.out) == (0, expected.outcome.out), done.err
            check_same_files(server, expected)


@pytest.mark.parametrize(("name", "step", "number"), [
    ("pseudo", 8, signal.SIGUSR1),
    *(pytest.param(name, 1, signal.SIGTERM, marks=pytest.mark.crash)
      for name in ("cams-cnn", "train-cls", "segment-net")),
    *(pytest.param("pseudo", 1, number, marks=pytest.mark.crash) for number in (signal.SIGINT, signal.SIGUSR2))])
def test_stops_on_a_signal_and_resumes_without_recomputing(server: Server, undisturbed: RunUndisturbed, name: str,
                                                           step: int, number: int) -> None:
    expected, num_stopped = undisturbed(name), 0
    for call in sample_calls(expected.outcome.calls, step)[:-1]:
        server.clear_work()
        interrupted = server.run(expected.command.args, "signal", call, number)
        if interrupted.code != 0:
            check_error(interrupted, 75, "stopped", "Run the same command again to resume")
            num_stopped += 1
        resumed = server.run(expected.command.args)
        assert (resumed.code, resumed.out) == (0, expected.outcome.out), resumed.err
        check_same_files(server, expected)
        assert sum(map(len, interrupted.computed + resumed.computed)) == sum(map(len, expected.outcome.computed)), call
    assert num_stopped
