"""Every call by which a command changes the disk is, in turn, its last, or goes wrong: SQLite's n++ until all is well.

`make test` takes a few calls of a few commands, `make test-crash` every call of every command.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable

import pytest

from cli.runner import refused
from crash.commands import Server
from crash.promises import Whole, found_room, goes_on, is_log, only_whole_files, same_files, sample, takes_room
from crash.scenarios import COMMANDS

Of = Callable[[str], Whole]
everywhere = [pytest.param(name, 1, marks=pytest.mark.crash) for name in COMMANDS]


@pytest.mark.parametrize(("name", "every"), [("cams-cnn", 4), ("train-cls", 5), *everywhere])
def test_killed_at_a_call_it_goes_on_to_the_same_bytes(server: Server, whole: Of, name: str, every: int) -> None:
    one = whole(name)
    for number in sample(one.ended.calls, every):
        server.fresh()
        killed = server.run(one.command.args, "kill", number)
        if number > len(one.ended.calls):
            assert killed.code == 0, killed.err
            same_files(server, one)
        else:
            assert killed.code == -9, (number, killed.err)
            only_whole_files(server, one)
            goes_on(server, one, killed)


@pytest.mark.parametrize(("name", "every"), [("cams-cnn", 5), ("eval", 1), *everywhere])
def test_a_call_that_fails_is_told_in_one_line_and_costs_nothing(server: Server, whole: Of, name: str,
                                                                 every: int) -> None:
    one = whole(name)
    for number in sample(one.ended.calls, every)[:-1]:
        server.fresh()
        failed = server.run(one.command.args, "fail", number, errno.EIO)
        if is_log(one.ended.calls[number - 1]):
            assert failed.code == 0, (number, failed.err)
        else:
            refused(failed, 74, "Input/output error", "is kept")
        only_whole_files(server, one)
        goes_on(server, one, failed)


@pytest.mark.parametrize(("name", "every"), [("train-cls", 6), *everywhere])
def test_a_disk_that_fills_up_is_told_in_one_line_and_costs_nothing(server: Server, whole: Of, name: str,
                                                                    every: int) -> None:
    one = whole(name)
    calls = one.ended.calls
    for number in sample(calls, every)[:-1]:
        if not takes_room(calls[number - 1]):
            continue
        server.fresh()
        failed = server.run(one.command.args, "full", number, errno.ENOSPC)
        if not found_room(failed, number):
            refused(failed, 74, "No space left on device", "is kept")
        only_whole_files(server, one)
        goes_on(server, one, failed)


@pytest.mark.parametrize(("name", "every"), [("cams-cnn", 3), *everywhere])
def test_a_write_that_takes_half_of_the_bytes_is_continued(server: Server, whole: Of, name: str, every: int) -> None:
    one = whole(name)
    for number in sample(one.ended.calls, every)[:-1]:
        if one.ended.calls[number - 1]["call"] == "write":
            server.fresh()
            done = server.run(one.command.args, "short", number)
            assert (done.code, done.out) == (0, one.ended.out), done.err
            same_files(server, one)


@pytest.mark.parametrize(("name", "every", "number"), [
    ("pseudo", 8, signal.SIGUSR1),
    *(pytest.param(name, 1, signal.SIGTERM, marks=pytest.mark.crash)
      for name in ("cams-cnn", "train-cls", "segment-net")),
    *(pytest.param("pseudo", 1, number, marks=pytest.mark.crash) for number in (signal.SIGINT, signal.SIGUSR2))])
def test_asked_to_stop_at_a_call_it_says_how_far_it_is_and_nothing_is_done_twice(server: Server, whole: Of, name: str,
                                                                                 every: int, number: int) -> None:
    one, stopped = whole(name), 0
    for call in sample(one.ended.calls, every)[:-1]:
        server.fresh()
        asked = server.run(one.command.args, "signal", call, number)
        if asked.code != 0:
            refused(asked, 75, "stopped", "run the same command again to go on")
            stopped += 1
        again = server.run(one.command.args)
        assert (again.code, again.out) == (0, one.ended.out), again.err
        same_files(server, one)
        assert sum(map(len, asked.computed + again.computed)) == sum(map(len, one.ended.computed)), call
    assert stopped
