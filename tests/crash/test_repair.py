"""`check --repair` ended anywhere: no sound image is lost, and the command that made the shard ends with its bytes.

It is no scenario of the others, for its second run finds other work than its first.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import h5py
import pytest

from crash.commands import Server
from crash.promises import Whole, sample
from crash.scenarios import COMMANDS

Of = Callable[[str], Whole]
SHARD, LOST = "out/cams-00000-of-00002.h5", "picture_002"
REPAIR = ("check", "out", "--repair")


def _damaged(server: Server, whole: Whole) -> None:
    """Put the run into the folder of the work, with a byte flipped in the map of one image."""
    server.fresh()
    for name, data in whole.files.items():
        path = server.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with h5py.File(server.work / SHARD, "r", locking=False) as file:
        chunk = file[f"items/{LOST}/cam"].id.get_chunk_info(0)
    data = bytearray(whole.files[SHARD])
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    (server.work / SHARD).write_bytes(data)


def _made_again(server: Server, whole: Whole) -> None:
    """Repair to the end and run the command: the bytes are those of before, and one image was computed again."""
    assert server.run(REPAIR).code in (65, 66)
    again = server.run(whole.command.args)
    assert again.code == 0, again.err
    assert again.computed == [[LOST]]
    files = server.files()
    assert files.pop(f"{SHARD}.damaged")
    assert files == whole.files


@pytest.mark.parametrize(("how", "number", "every"), [
    ("kill", 0, 3), *(pytest.param(how, number, 1, marks=pytest.mark.crash) for how, number in (
        ("kill", 0), ("fail", errno.EIO), ("full", errno.ENOSPC), ("short", 0)))])
def test_a_repair_that_is_ended_loses_nothing(server: Server, whole: Of, how: str, number: int, every: int) -> None:
    one = whole("cams-cnn")
    assert one.command == COMMANDS["cams-cnn"]
    _damaged(server, one)
    calls = server.run(REPAIR).calls
    assert {"open", "write", "fsync", "replace"} <= {call["call"] for call in calls}
    for at in sample(calls, every):
        _damaged(server, one)
        ended = server.run(REPAIR, how, at, number)
        assert "Traceback" not in ended.err and "internal error" not in ended.err
        if at <= len(calls):
            assert ended.code in {"kill": (-9,), "fail": (74,), "full": (74, 65), "short": (65,)}[how], ended.err
        _made_again(server, one)
