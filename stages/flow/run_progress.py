"""Describe a run, finished or in the making: its parts, images, failures, settings, and the times of its log."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput
from stages.flow.file_times import format_file_time
from stages.flow.training_log import read_log_lines
from stages.shards import Shard, parse_shard_name, unfinished_path
from stages.shards.disk import is_locked_on_this_machine
from stages.shards.journal import read_journal_progress

DONE, RUNNING, UNFINISHED = "done", "running", "unfinished"
_EXAMPLE = "Give a run folder, a shard (.h5), a network (.safetensors) or the log of a training (.jsonl)"


def describe_run(path: str) -> dict[str, Any]:
    """Return what is known of a run folder or a shard: `state`, `parts`, counts, `settings`, times and `notes`.

    Raises MissingInput, and BadData for a folder without shards, more than one run, or another file.
    """
    given = Path(path.removesuffix(".part"))
    files = _find_files(given, path)
    parts = [_describe_part(file) for file in files]
    total = _count_parts(files, path) if given.is_dir() else 1
    log = given / "log.jsonl" if given.is_dir() else given.with_suffix(".log.jsonl")
    times = _read_times(log, {part["file"] for part in parts})
    for part in parts:
        part |= times.get(part["file"], {"seconds": None, "time": None, "host": None})
    done = [part for part in parts if part["state"] == DONE]
    first = next((part for part in (*done, *parts) if part["entry"]), {"entry": {}, "kind": None})
    entry = first["entry"]
    description = {
        "path": path, "type": "run", "kind": first["kind"], "state": _find_state(parts, total), "num_parts": total,
        "num_done": len(done), "num_unfinished": len(parts) - len(done),
        "num_missing": total - len(parts),
        "images": sum(part["images"] for part in parts),
        "failed": sum(part["failed"] or 0 for part in parts), "seconds": _sum_seconds(done),
        "stage": " ".join(filter(None, (entry.get("stage"), entry.get("method")))),
        "settings": entry.get("config", {}), "first_written": None, "last_written": None, "notes": [],
        "parts": [{key: value for key, value in part.items() if key != "entry"} for part in parts]}
    _add_times(description, files, log)
    return description


def _find_files(given: Path, path: str) -> list[Path]:
    """Return the shards of a run by their final names, of which some may only have a journal yet."""
    if not given.is_dir():
        if given.exists() or unfinished_path(given).exists():
            return [given]
        raise MissingInput("does not exist", "Check the path", where=path)
    files = {Path(str(file).removesuffix(".part")) for file in given.iterdir()
             if file.name.endswith((".h5", ".h5.part"))}
    named = sorted(file for file in files if parse_shard_name(file))
    if not named:
        raise BadData("holds neither shards nor unfinished shards", _EXAMPLE, where=path)
    return named


def _count_parts(files: list[Path], path: str) -> int:
    runs = {name[::2] for file in files if (name := parse_shard_name(file))}
    if len(runs) > 1:
        listed = ", ".join(f"{kind} in {parts} parts" for kind, parts in sorted(runs))
        raise BadData(f"holds more than one run ({listed})", "Give one shard, or move the old run", where=path)
    return next(iter(runs))[1]


def _describe_part(file: Path) -> dict[str, Any]:
    """Describe a finished shard; an unfinished one by its journal, whose failures are not counted."""
    name = parse_shard_name(file)
    journal = unfinished_path(file)
    part: dict[str, Any] = {"file": file.name, "part": name[1] if name else 0}
    if file.exists():
        if file.suffix != ".h5":
            raise BadData("is neither a run nor a training", _EXAMPLE, where=str(file))
        status = file.stat()
        return {**part, "state": DONE, **_describe_shard(file, status.st_mtime_ns, status.st_ino)}
    try:
        request, images = read_journal_progress(journal)
    except FileNotFoundError:  # finished since the folder was listed
        return _describe_part(file) if file.exists() else {**part, "kind": name[0] if name else None,
                                                           "state": UNFINISHED, "images": 0, "failed": None,
                                                           "entry": {}}
    return {**part, "kind": name[0] if name else None, "images": images, "failed": None, "entry": request,
            "state": RUNNING if is_locked_on_this_machine(journal) else UNFINISHED}


@lru_cache(maxsize=10_000)
def _describe_shard(file: Path, _modified: int, _inode: int) -> dict[str, Any]:
    """Return what a finished shard holds. While a run is followed, only new shards are opened."""
    shard = Shard(file)
    return {"kind": shard.kind, "images": len(shard.ids), "failed": len(shard.errors),
            "entry": shard.provenance[-1] if shard.provenance else {}}


def _find_state(parts: list[dict[str, Any]], total: int) -> str:
    states = {part["state"] for part in parts}
    if RUNNING in states:
        return RUNNING
    return "finished" if states == {DONE} and len(parts) == total else UNFINISHED


def _read_times(log: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    """Return the last log line of each part: how long it took, when it ended, and on which machine."""
    lines = read_log_lines(log) if log.is_file() else []
    types = {"seconds": (int, float), "time": str, "host": str}
    return {line["path"]: {key: line[key] if isinstance(line.get(key), kind) else None for key, kind in types.items()}
            for line in lines if isinstance(line.get("path"), str) and line["path"] in names}


def _sum_seconds(parts: list[dict[str, Any]]) -> float | None:
    known = [part["seconds"] for part in parts if isinstance(part["seconds"], (int, float))]
    return round(sum(known), 3) if known and len(known) == len(parts) else None


def _add_times(description: dict[str, Any], files: list[Path], log: Path) -> None:
    """Add when parts were written: by the log if it knows all of them, else by the times of the files."""
    done = [part for part in description["parts"] if part["state"] == DONE]
    existing = [file for file in files if file.exists()]
    times = [part["time"] for part in done if part["time"]]
    if done and len(times) < len(done):
        times = [format_file_time(file) for file in existing]
        source = "does not know all parts" if log.is_file() else "does not exist"
        description["notes"].append(f"{log} {source}, so the times are those of the files.")
    if times:
        description |= {"first_written": min(times), "last_written": max(times)}
    if description["state"] == UNFINISHED:
        description["notes"].append("Run the same command again to finish the run, unless another machine is making "
                                    "it.")
