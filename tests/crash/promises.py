"""What must hold after a command was ended in the middle, whatever ended it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from crash.commands import Ended, Server
from crash.faults import TAKES_ROOM
from crash.scenarios import Command

UNFINISHED = (".part", ".tmp", ".lock")


@dataclass(frozen=True)
class Whole:
    """A command, how it ended undisturbed, and the files that it wrote."""

    command: Command
    ended: Ended
    files: dict[str, bytes]

    @property
    def most_lost(self) -> int:
        """How much a kill may cost: the batch in flight, or the steps since a training was last saved."""
        return 2 if self.command.kind == "net" else max((len(batch) for batch in self.ended.computed), default=0)


def is_log(call: dict) -> bool:
    """Say whether a call is about a log, which stops nothing when it can't be written."""
    return call["path"].endswith("log.jsonl")


def takes_room(call: dict) -> bool:
    """Say whether a call needs room on the disk, and so must end the command when there is none."""
    return call["call"] in TAKES_ROOM and not is_log(call)


def only_whole_files(server: Server, whole: Whole) -> None:
    """Check that every file under a final name is the one that an undisturbed run writes."""
    for name, data in server.files().items():
        if not name.endswith(UNFINISHED):
            assert data == whole.files.get(name), f"{name} is not whole"


def found_room(ended: Ended, number: int) -> bool:
    """Say whether a command ended well, for it had done all that takes room before the call of this `number`.

    Journals are synced by the clock, so on a busy machine calls have other numbers; and a file that is there is opened
    on a full disk as well.
    """
    there = {call["path"] for call in ended.calls if call["number"] < number}
    return ended.code == 0 and not any(
        call["number"] >= number and takes_room(call) and not (call["call"] == "open" and call["path"] in there)
        for call in ended.calls)


def goes_on(server: Server, whole: Whole, before: Ended, *, workers: int = 1, all_counted: bool = True) -> None:
    """Run the command again: it must end with the very files of an undisturbed run, and little computed twice.

    `all_counted` tells whether what was computed before is known: nobody counts in workers that are no forks.
    """
    again = server.run(whole.command.args)
    assert (again.code, again.out) == (0, whole.ended.out), again.err
    same_files(server, whole)
    computed = sum(len(batch) for one in (before, again) for batch in one.computed)
    once = sum(map(len, whole.ended.computed))
    assert computed <= once + workers * whole.most_lost, (once, computed)
    assert computed >= once or not all_counted, (once, computed)


def same_files(server: Server, whole: Whole) -> None:
    """Check that the files are those of an undisturbed run, no more and no less; a log's last line may be torn."""
    files = server.files()
    assert sorted(files) == sorted(whole.files)
    assert [name for name in files if files[name] != whole.files[name]] == []
    for log in server.work.rglob("*log.jsonl"):
        for line in log.read_text().splitlines(keepends=True):
            assert not line.endswith("\n") or json.loads(line)


def sample(calls: Sequence[dict], every: int) -> list[int]:
    """Return the numbers of every so-many-th call, and of one after the last, where nothing goes wrong."""
    return [*range(1, len(calls) + 1, every), len(calls) + 1]
