"""Check what must hold after a command was interrupted, whatever interrupted it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crash.commands import Outcome, Server
from crash.faults import CALLS_NEEDING_SPACE
from crash.scenarios import Command

UNFINISHED = (".part", ".tmp", ".lock")


@dataclass(frozen=True)
class UndisturbedRun:
    """A command, how it ended without faults, and the files that it wrote."""

    command: Command
    outcome: Outcome
    files: dict[str, bytes]

    @property
    def max_lost(self) -> int:
        """Return how many items a kill may lose: the batch in progress, or the steps since the last checkpoint."""
        return 2 if self.command.kind == "net" else max((len(batch) for batch in self.outcome.computed), default=0)


# Runs a command by name without faults.
RunUndisturbed = Callable[[str], UndisturbedRun]


def is_log(call: dict) -> bool:
    """Return whether a call is on a log; a log that can't be written does not stop a command."""
    return call["path"].endswith("log.jsonl")


def needs_space(call: dict) -> bool:
    """Return whether a call needs space on the disk, so that the command must stop if there is none."""
    return call["call"] in CALLS_NEEDING_SPACE and not is_log(call)


def check_whole_files(server: Server, expected: UndisturbedRun) -> None:
    """Check that every file under a final name is identical to that of an undisturbed run."""
    for name, data in server.read_files().items():
        if not name.endswith(UNFINISHED):
            assert data == expected.files.get(name), f"{name} is incomplete"


def has_written_all(outcome: Outcome, number: int) -> bool:
    """Return whether a command succeeded because all calls that need space came before the call `number`.

    Journals are synced at intervals, so call numbers change on a busy machine; and a file that exists can be opened on
    a full disk.
    """
    existing = {call["path"] for call in outcome.calls if call["number"] < number}
    return outcome.code == 0 and not any(
        call["number"] >= number and needs_space(call) and not (call["call"] == "open" and call["path"] in existing)
        for call in outcome.calls)


def check_resume(server: Server, expected: UndisturbedRun, before: Outcome, *, num_workers: int = 1,
                 all_counted: bool = True) -> None:
    """Run the command again: it must write the files of an undisturbed run and compute little twice.

    `all_counted` is False if not all computed items are recorded, which they are only in workers that are forks.
    """
    resumed = server.run(expected.command.args)
    assert (resumed.code, resumed.out) == (0, expected.outcome.out), resumed.err
    check_same_files(server, expected)
    num_computed = sum(len(batch) for outcome in (before, resumed) for batch in outcome.computed)
    num_expected = sum(map(len, expected.outcome.computed))
    assert num_computed <= num_expected + num_workers * expected.max_lost, (num_expected, num_computed)
    assert num_computed >= num_expected or not all_counted, (num_expected, num_computed)


def check_same_files(server: Server, expected: UndisturbedRun) -> None:
    """Check that the files are exactly those of an undisturbed run; the last line of a log may be incomplete."""
    files = server.read_files()
    assert sorted(files) == sorted(expected.files)
    assert [name for name in files if files[name] != expected.files[name]] == []
    for log in server.work.rglob("*log.jsonl"):
        for line in log.read_text().splitlines(keepends=True):
            assert not line.endswith("\n") or json.loads(line)


def sample_calls(calls: Sequence[dict], step: int) -> list[int]:
    """Return every `step`-th call number, and the number after the last, at which no fault happens."""
    return [*range(1, len(calls) + 1, step), len(calls) + 1]
