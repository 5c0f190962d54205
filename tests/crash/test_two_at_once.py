"""Two processes that run the same command, and a reader, at every call at which one of them can be paused."""

from __future__ import annotations

import os
import signal

import pytest

from crash.commands import Server
from crash.invariants import UNFINISHED, RunUndisturbed, check_same_files, check_whole_files, sample_calls

everywhere = [pytest.param(name, 1, marks=pytest.mark.crash)
              for name in ("pseudo", "train-cls", "train-aff-psa", "index", "cluster", "eval")]


@pytest.mark.parametrize(("name", "step"), [("pseudo", 6), *everywhere])
def test_two_processes_never_mix_their_files(server: Server, undisturbed: RunUndisturbed, name: str,
                                             step: int) -> None:
    """The second runs while the first is paused at a call. A reader sees no file or a complete one."""
    expected, num_rejected = undisturbed(name), 0
    for number in sample_calls(expected.outcome.calls, step)[:-1]:
        server.clear_work()
        first = server.run(expected.command.args, "pause", number)
        assert first.code is None, first.err
        check_whole_files(server, expected)
        second = server.run(expected.command.args)
        check_whole_files(server, expected)
        first = server.resume(first)
        for done in (first, second):
            assert done.code in (0, 75), (number, done.err)
            assert done.code == 0 or "another process" in done.err.splitlines()[-1], (number, done.err)
        assert 0 in (first.code, second.code), number
        num_rejected += second.code == 75
        assert server.run(expected.command.args).code == 0
        check_same_files(server, expected)
    assert num_rejected


def test_reader_sees_the_old_or_the_new_shard(server: Server, undisturbed: RunUndisturbed) -> None:
    """With --force and other settings the final name has the old shard until the rename, and then the new one."""
    expected = undisturbed("pseudo")
    shard = next(name for name in expected.files if not name.endswith(UNFINISHED))
    changed_args = (*expected.command.args, *expected.command.changed_option, "--force")
    server.clear_work()
    server.run_ok(*expected.command.args)
    calls = server.run_ok(*changed_args).calls
    new = server.read_files()[shard]
    assert new != expected.files[shard]
    replace_number = next(call["number"] for call in calls if call["call"] == "replace")
    for number in (1, replace_number - 1, replace_number, replace_number + 1, len(calls)):
        server.clear_work()
        server.run_ok(*expected.command.args)
        paused = server.run(changed_args, "pause", number)
        assert server.read_files()[shard] == (new if number > replace_number else expected.files[shard]), number
        os.kill(paused.pid, signal.SIGKILL)
        server.resume(paused)
