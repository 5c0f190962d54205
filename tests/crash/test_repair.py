"""`check --repair` interrupted anywhere: no intact image is lost, and the shard can be completed to the same bytes.

Not one of the other scenarios, because its second run has different work to do than its first.
"""

from __future__ import annotations

import errno

import h5py
import pytest

from crash.commands import Server
from crash.invariants import RunUndisturbed, UndisturbedRun, sample_calls
from crash.scenarios import COMMANDS

SHARD, DAMAGED_ID = "out/cams-00000-of-00002.h5", "picture_002"
REPAIR = ("check", "out", "--repair")


def write_damaged_run(server: Server, undisturbed: UndisturbedRun) -> None:
    """Write the run to the working folder, with a byte flipped in the CAM of one image."""
    server.clear_work()
    for name, data in undisturbed.files.items():
        path = server.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with h5py.File(server.work / SHARD, "r", locking=False) as file:
        chunk = file[f"items/{DAMAGED_ID}/cam"].id.get_chunk_info(0)
    data = bytearray(undisturbed.files[SHARD])
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    (server.work / SHARD).write_bytes(data)


def check_remade(server: Server, undisturbed: UndisturbedRun) -> None:
    """Repair, and run the command again: it must write the same bytes and compute one image again."""
    assert server.run(REPAIR).code in (65, 66)
    resumed = server.run(undisturbed.command.args)
    assert resumed.code == 0, resumed.err
    assert resumed.computed == [[DAMAGED_ID]]
    files = server.read_files()
    assert files.pop(f"{SHARD}.damaged")
    assert files == undisturbed.files


@pytest.mark.parametrize(("fault", "errno_value", "step"), [
    ("kill", 0, 3), *(pytest.param(fault, errno_value, 1, marks=pytest.mark.crash) for fault, errno_value in (
        ("kill", 0), ("fail", errno.EIO), ("full", errno.ENOSPC), ("short", 0)))])
def test_interrupted_repair_loses_nothing(server: Server, undisturbed: RunUndisturbed, fault: str, errno_value: int,
                                          step: int) -> None:
    expected = undisturbed("cams-cnn")
    assert expected.command == COMMANDS["cams-cnn"]
    write_damaged_run(server, expected)
    calls = server.run(REPAIR).calls
    assert {"open", "write", "fsync", "replace"} <= {call["call"] for call in calls}
    for call_number in sample_calls(calls, step):
        write_damaged_run(server, expected)
        interrupted = server.run(REPAIR, fault, call_number, errno_value)
        assert "Traceback" not in interrupted.err and "internal error" not in interrupted.err
        if call_number <= len(calls):
            assert interrupted.code in {"kill": (-9,), "fail": (74,), "full": (74, 65),
                                        "short": (65,)}[fault], interrupted.err
        check_remade(server, expected)
