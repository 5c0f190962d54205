"""`check`: every damaged byte of a shard, found; and what is sound of it kept, so that only the rest is made again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, WsssError
from stages.flow.execution import Output, Report
from stages.nets.files import read_net
from stages.shards import check_shard, expand, missing_parts, numbered, part_path, salvage


@dataclass(frozen=True)
class Checked:
    """A file and what is wrong with it; of a run the holes are, under the name of its folder, one more."""

    path: Path
    verdict: str
    faults: list[WsssError]


def check(paths: Iterable[str], report: Report, *, repair: bool = False) -> Iterator[Checked]:
    """Yield what is found of every file, of a net against the sha256 of its tensors; then the holes of a run.

    With `repair` what is sound of a damaged shard goes to its journal, and the shard out of the way. Raises what
    `salvage` raises but BadData, which is told.
    """
    for given in paths:
        files = [Path(given)] if given.endswith(".safetensors") else expand(given)
        for file in files:
            faults = _faults(file)
            yield Checked(file, "damaged" if faults else "good", faults)
            if faults and repair:
                report.tell(_repaired(file))
        holes = _holes(files) if Path(given).is_dir() else ""
        if holes:
            fault = MissingInput(f"the run lacks part {holes}", "make the missing shards", where=given)
            yield Checked(Path(given), "incomplete", [fault])


def _faults(file: Path) -> list[WsssError]:
    if file.suffix != ".safetensors":
        return list(check_shard(file))
    try:
        read_net(file)
    except WsssError as error:
        return [error]
    return []


def _holes(files: list[Path]) -> str:
    """Return the parts that the names in a folder lack."""
    numbers = [name for file in files if (name := numbered(file))]
    return missing_parts([part for _, part, _ in numbers], numbers[0][2])


def _repaired(file: Path) -> str:
    """Keep what is sound, and return what is to be done now."""
    if file.suffix == ".safetensors":
        return f"{file}: a net can't be repaired; copy it again, or train it again with --force"
    try:
        done = salvage(file)
    except BadData as error:
        return str(error)
    kept = (f"{done.kept} of its {done.total} images are kept in {part_path(file).name}" if done.kept
            else "nothing of it could be kept")
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
