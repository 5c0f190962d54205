"""The order of the calls: write, sync, rename, sync the folder.

A kill does not lose data that the system has not yet written to the disk; only a loss of power does, which no test can
simulate. So these tests check the calls of every command instead.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.commands import Server
from crash.invariants import UNFINISHED, RunUndisturbed, is_log
from crash.scenarios import COMMANDS

MODIFYING_CALLS = {"open", "write", "ftruncate"}
every_command = [pytest.param(name, marks=() if name in ("cams-cnn", "train-aff-irn", "eval") else pytest.mark.crash)
                 for name in COMMANDS]


@pytest.mark.parametrize("name", every_command)
def test_syncs_file_before_and_folder_after_rename(undisturbed: RunUndisturbed, name: str) -> None:
    expected = undisturbed(name)
    calls = [call for call in expected.outcome.calls if not is_log(call)]
    positions = [position for position, call in enumerate(calls) if call["call"] == "replace"]
    finals = [Path(calls[position]["path"]).name for position in positions]
    assert {Path(file).name for file in expected.files} <= set(finals)
    for position in positions:
        path = calls[position]["path"]
        calls_on_temporary = [call["call"] for call in calls[:position] if call["path"] == f"{path}.tmp"]
        last_writes = calls_on_temporary[len(calls_on_temporary) - calls_on_temporary[::-1].index("open") - 1:]
        assert last_writes[0] == "open" and last_writes[-1] == "fsync" and "write" in last_writes, (path, last_writes)
        after = [(call["call"], call["path"]) for call in calls[position + 1:position + 2]]
        assert after == [("fsync", str(Path(path).parent))], path


@pytest.mark.parametrize("name", every_command)
def test_never_writes_under_a_final_name(undisturbed: RunUndisturbed, name: str) -> None:
    for call in undisturbed(name).outcome.calls:
        if call["call"] in MODIFYING_CALLS and not is_log(call):
            assert call["path"].endswith(UNFINISHED), call


@pytest.mark.parametrize("name", every_command)
def test_removes_journal_after_the_final_file(undisturbed: RunUndisturbed, name: str) -> None:
    calls = undisturbed(name).outcome.calls
    for position, call in enumerate(calls):
        if call["call"] == "unlink" and call["path"].endswith(".part"):
            final = call["path"].removesuffix(".part").removesuffix(".labels")
            before = [(earlier["call"], earlier["path"]) for earlier in calls[:position]]
            assert ("replace", final) in before, call
            assert ("fsync", str(Path(final).parent)) in before[before.index(("replace", final)):], call


@pytest.mark.parametrize("name", every_command)
def test_syncs_the_parent_of_a_new_folder(undisturbed: RunUndisturbed, name: str, server: Server) -> None:
    calls = undisturbed(name).outcome.calls
    positions = [position for position, call in enumerate(calls) if call["call"] == "mkdir"]
    assert positions
    for position in positions:
        parent = str(Path(calls[position]["path"]).parent)
        assert ("fsync", parent) in [(call["call"], call["path"]) for call in calls[position:]], calls[position]


@pytest.mark.parametrize("name", every_command)
def test_watch_records_every_write(undisturbed: RunUndisturbed, name: str) -> None:
    """Otherwise the other tests would miss faults in calls that libraries make themselves."""
    notes = undisturbed(name).outcome.notes
    assert [note for note in notes if note["call"] == "past"] == []
    (end,) = [note for note in notes if note["call"] == "end"]
    if end["unseen"] == -1:
        pytest.skip("the system does not count the bytes that a process writes (/proc/self/io)")
    assert end["unseen"] == 0
