"""`check`: finds damaged files, and shards that do not belong to their run; repairs shards by keeping intact items."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, Stopped, WsssError
from stages.flow.execution import Output, Report, Stop
from stages.nets.net_description import read_verified_description
from stages.shards import (
    Shard,
    check_same_run,
    check_shard,
    check_shard_name,
    describe_missing_parts,
    find_shard_files,
    parse_shard_name,
    salvage_shard,
    unfinished_path,
)


@dataclass(frozen=True)
class CheckResult:
    """The verdict on a file, or on the folder of a run that lacks parts, and its faults."""

    path: Path
    verdict: str
    faults: list[WsssError]


def check(paths: Iterable[str], report: Report, *, stop: Stop, repair: bool = False,
          dry_run: bool = False) -> Iterator[CheckResult]:
    """Yield the result for every file, then for every folder of a run that lacks parts.

    Networks are compared with the sha256 of their tensors. With `repair` the intact items of a damaged shard are moved
    to its journal and the shard is renamed; with `dry_run` this is only reported. Raises Stopped, and what
    `salvage_shard` raises except BadData, which is reported.
    """
    runs: dict[tuple[Path, str, int], Shard] = {}
    for path in paths:
        files = [Path(path)] if path.endswith(".safetensors") else find_shard_files(path)
        for file in files:
            if stop.requested:
                raise Stopped("stopped by a signal", "Run the same command again")
            faults = _find_faults(file, stop)
            yield CheckResult(file, "damaged", faults) if faults else _check_run_membership(file, runs)
            if faults and repair:
                report.info(_repair(file, dry_run))
        missing = _describe_missing(files) if Path(path).is_dir() else ""
        if missing:
            fault = MissingInput(f"the run lacks part {missing}",
                                 "Run the command that made it again to make the missing shards", where=path)
            yield CheckResult(Path(path), "incomplete", [fault])


def _find_faults(file: Path, stop: Stop) -> list[WsssError]:
    if file.suffix != ".safetensors":
        return list(check_shard(file, lambda: stop.requested))
    try:
        read_verified_description(file)
    except WsssError as error:
        return [error]
    return []


def _check_run_membership(file: Path, runs: dict[tuple[Path, str, int], Shard]) -> CheckResult:
    """Compare an intact file with its name and with the first shard of its run, which `runs` stores."""
    name = parse_shard_name(file)
    if name is None:
        return CheckResult(file, "good", [])
    shard = Shard(file)
    shard.close()
    verdict = "misnamed"
    try:
        check_shard_name(shard)
        verdict = "mixed"
        check_same_run(shard, runs.setdefault((file.parent, name[0], name[2]), shard))
    except BadData as fault:
        return CheckResult(file, verdict, [fault])
    return CheckResult(file, "good", [])


def _describe_missing(files: list[Path]) -> str:
    """Return the parts that are missing according to the file names of a run."""
    names = [name for file in files if (name := parse_shard_name(file))]
    return describe_missing_parts([part for _, part, _ in names], names[0][2])


def _repair(file: Path, dry_run: bool) -> str:
    """Repair a damaged file, or in a dry run only pretend to, and return a message with the command to run next."""
    if file.suffix == ".safetensors":
        return f"{file}: a network can't be repaired. Copy it again, or train it again with --force."
    try:
        result = salvage_shard(file, dry_run=dry_run)
    except BadData as error:
        return str(error)
    images = f"{result.num_sound} of its {result.num_items} images in {unfinished_path(file).name}"
    if dry_run:
        action = f"would keep {images}" if result.num_sound else "would keep none of its images"
        return f"{file}: {action}, and rename it to {result.damaged_path.name}. Run then: {_find_command(file)}"
    action = f"kept {images}" if result.num_sound else "could keep none of its images"
    return f"{file}: {action}, and renamed it to {result.damaged_path.name}. Run again: {_find_command(file)}"


def _find_command(file: Path) -> str:
    """Return the command that made a file, from the log of its run."""
    command = "the command that made it"
    try:
        log = Output(file if parse_shard_name(file) is None else file.parent).log_path
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return command
    for line in lines:
        command = _parse_log_line(line, file.name) or command
    return command


def _parse_log_line(line: str, name: str) -> str:
    """Return the command in a line of the log if it made the file `name`, else an empty string."""
    try:
        entry: Any = json.loads(line)
        return shlex.join(["wsss", *entry["command"][1:]]) if entry["path"] == name else ""
    except (ValueError, KeyError, TypeError):
        return ""
