"""Two processes with one command, and a reader that looks on: at every call at which one of them can be interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from crash.commands import Server
from crash.promises import UNFINISHED, Whole, only_whole_files, same_files, sample

Of = Callable[[str], Whole]
everywhere = [pytest.param(name, 1, marks=pytest.mark.crash)
              for name in ("pseudo", "train-cls", "train-aff-psa", "index", "cluster", "eval")]


@pytest.mark.parametrize(("name", "every"), [("pseudo", 6), *everywhere])
def test_a_second_one_is_sent_away_or_finds_it_done_and_nothing_is_mixed(server: Server, whole: Of, name: str,
                                                                         every: int) -> None:
    """The first is stopped at a call; meanwhile the second runs to its end. A reader sees nothing or the whole."""
    one, sent_away = whole(name), 0
    for number in sample(one.ended.calls, every)[:-1]:
        server.fresh()
        first = server.run(one.command.args, "pause", number)
        assert first.code is None, first.err
        only_whole_files(server, one)
        second = server.run(one.command.args)
        only_whole_files(server, one)
        first = server.go(first)
        for done in (first, second):
            assert done.code in (0, 75), (number, done.err)
            assert done.code == 0 or "another process" in done.err.splitlines()[-1], (number, done.err)
        assert 0 in (first.code, second.code), number
        sent_away += second.code == 75
        assert server.run(one.command.args).code == 0
        same_files(server, one)
    assert sent_away


def test_a_reader_of_a_replaced_shard_has_the_old_one_or_the_new_one(server: Server, whole: Of) -> None:
    """--force with other settings: under the final name is the old shard, whole, up to the rename, then the new."""
    one = whole("pseudo")
    shard = next(name for name in one.files if not name.endswith(UNFINISHED))
    other = (*one.command.args, *one.command.other, "--force")
    server.fresh()
    server.good(*one.command.args)
    calls = server.good(*other).calls
    new = server.files()[shard]
    assert new != one.files[shard]
    renamed = next(call["number"] for call in calls if call["call"] == "replace")
    for number in (1, renamed - 1, renamed, renamed + 1, len(calls)):
        server.fresh()
        server.good(*one.command.args)
        paused = server.run(other, "pause", number)
        assert server.files()[shard] == (new if number > renamed else one.files[shard]), number
        os.kill(paused.pid, signal.SIGKILL)
        server.go(paused)
