"""In which order the calls come, since a loss of power can't be had in a test: written, synced, renamed, folder synced.

A kill keeps what the system has not yet written to the disk; only a loss of power loses it. So the calls that every
command makes are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crash.commands import Server
from crash.promises import UNFINISHED, Whole, is_log
from crash.scenarios import COMMANDS

Of = Callable[[str], Whole]
MAKES = {"open", "write", "ftruncate"}
every_command = [pytest.param(name, marks=() if name in ("cams-cnn", "train-aff-irn", "eval") else pytest.mark.crash)
                 for name in COMMANDS]


@pytest.mark.parametrize("name", every_command)
def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(whole: Of, name: str) -> None:
    one = whole(name)
    calls = [call for call in one.ended.calls if not is_log(call)]
    renamed = [place for place, call in enumerate(calls) if call["call"] == "replace"]
    finals = [Path(calls[place]["path"]).name for place in renamed]
    assert {Path(file).name for file in one.files} <= set(finals)
    for place in renamed:
        path = calls[place]["path"]
        own = [call["call"] for call in calls[:place] if call["path"] == f"{path}.tmp"]
        made = own[len(own) - own[::-1].index("open") - 1:]
        assert made[0] == "open" and made[-1] == "fsync" and "write" in made, (path, made)
        after = [(call["call"], call["path"]) for call in calls[place + 1:place + 2]]
        assert after == [("fsync", str(Path(path).parent))], path


@pytest.mark.parametrize("name", every_command)
def test_nothing_is_written_to_a_file_under_its_final_name(whole: Of, name: str) -> None:
    for call in whole(name).ended.calls:
        if call["call"] in MAKES and not is_log(call):
            assert call["path"].endswith(UNFINISHED), call


@pytest.mark.parametrize("name", every_command)
def test_unfinished_work_is_removed_after_the_file_that_it_became(whole: Of, name: str) -> None:
    calls = whole(name).ended.calls
    for place, call in enumerate(calls):
        if call["call"] == "unlink" and call["path"].endswith(".part"):
            final = call["path"].removesuffix(".part").removesuffix(".labels")
            before = [(one["call"], one["path"]) for one in calls[:place]]
            assert ("replace", final) in before, call
            assert ("fsync", str(Path(final).parent)) in before[before.index(("replace", final)):], call


@pytest.mark.parametrize("name", every_command)
def test_a_new_folder_is_synced_into_its_own(whole: Of, name: str, server: Server) -> None:
    calls = whole(name).ended.calls
    made = [place for place, call in enumerate(calls) if call["call"] == "mkdir"]
    assert made
    for place in made:
        parent = str(Path(calls[place]["path"]).parent)
        assert ("fsync", parent) in [(call["call"], call["path"]) for call in calls[place:]], calls[place]


@pytest.mark.parametrize("name", every_command)
def test_no_byte_gets_past_the_watch(whole: Of, name: str) -> None:
    """Else the other tests would prove less than they say: libraries write nothing by calls of their own."""
    notes = whole(name).ended.notes
    assert [note for note in notes if note["call"] == "past"] == []
    (end,) = [note for note in notes if note["call"] == "end"]
    if end["unseen"] == -1:
        pytest.skip("the system does not count the bytes that a process writes (/proc/self/io)")
    assert end["unseen"] == 0
