"""`check`: damaged bytes and parts that are of no run, found; and what is sound of a shard kept, to make the rest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, Stopped, WsssError
from stages.flow.execution import Output, Report, Stop
from stages.nets.files import read_net
from stages.shards import (
    Shard,
    check_name,
    check_same_run,
    check_shard,
    expand,
    missing_parts,
    numbered,
    part_path,
    salvage,
)


@dataclass(frozen=True)
class Checked:
    """A file and what is wrong with it; of a run the holes are, under the name of its folder, one more."""

    path: Path
    verdict: str
    faults: list[WsssError]


def check(paths: Iterable[str], report: Report, *, stop: Stop, repair: bool = False,
          dry_run: bool = False) -> Iterator[Checked]:
    """Yield what is found of every file, of a net against the sha256 of its tensors; then the holes of a run.

    With `repair` what is sound of a damaged shard goes to its journal, and the shard out of the way; with `dry_run`
    that is told only. Raises what `salvage` raises but BadData, which is told; Stopped.
    """
    runs: dict[tuple[Path, str, int], Shard] = {}
    for given in paths:
        files = [Path(given)] if given.endswith(".safetensors") else expand(given)
        for file in files:
            if stop.requested:
                raise Stopped("stopped", "run the same command again")
            faults = _faults(file, stop)
            yield Checked(file, "damaged", faults) if faults else _in_its_run(file, runs)
            if faults and repair:
                report.tell(_repaired(file, dry_run))
        holes = _holes(files) if Path(given).is_dir() else ""
        if holes:
            fault = MissingInput(f"the run lacks part {holes}", "make the missing shards", where=given)
            yield Checked(Path(given), "incomplete", [fault])


def _faults(file: Path, stop: Stop) -> list[WsssError]:
    if file.suffix != ".safetensors":
        return list(check_shard(file, lambda: stop.requested))
    try:
        read_net(file)
    except WsssError as error:
        return [error]
    return []


def _in_its_run(file: Path, runs: dict[tuple[Path, str, int], Shard]) -> Checked:
    """Compare a sound file with its name and with the first of its run, of which `runs` keeps one each."""
    name = numbered(file)
    if name is None:
        return Checked(file, "good", [])
    shard = Shard(file)
    shard.close()
    verdict = "misnamed"
    try:
        check_name(shard)
        verdict = "mixed"
        check_same_run(shard, runs.setdefault((file.parent, name[0], name[2]), shard))
    except BadData as fault:
        return Checked(file, verdict, [fault])
    return Checked(file, "good", [])


def _holes(files: list[Path]) -> str:
    """Return the parts that the names in a folder lack."""
    numbers = [name for file in files if (name := numbered(file))]
    return missing_parts([part for _, part, _ in numbers], numbers[0][2])


def _repaired(file: Path, dry_run: bool) -> str:
    """Keep what is sound, and return what is to be done now; in a dry run what would be done."""
    if file.suffix == ".safetensors":
        return f"{file}: a net can't be repaired; copy it again, or train it again with --force"
    try:
        done = salvage(file, dry_run=dry_run)
    except BadData as error:
        return str(error)
    images = f"{done.kept} of its {done.total} images"
    if dry_run:
        kept = f"would keep {images} in {part_path(file).name}" if done.kept else "would keep nothing of it"
        return f"{file}: {kept}, and move it to {done.moved.name}; to be run then: {_command(file)}"
    kept = f"{images} are kept in {part_path(file).name}" if done.kept else "nothing of it could be kept"
    return f"{file}: {kept}, itself is now {done.moved.name}; run again: {_command(file)}"


def _command(file: Path) -> str:
    """Return the command that made a file, from the log of its run."""
    told = "the command that made it"
    try:
        log = Output(file if numbered(file) is None else file.parent).log_path
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return told
    for line in lines:
        told = _of_line(line, file.name) or told
    return told


def _of_line(line: str, name: str) -> str:
    try:
        entry: Any = json.loads(line)
        return shlex.join(["wsss", *entry["command"][1:]]) if entry["path"] == name else ""
    except (ValueError, KeyError, TypeError):
        return ""
