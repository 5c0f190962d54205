"""Describe a training from its network, its checkpoint and its log: state, settings, epochs, and what is unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput
from stages.flow.file_times import format_file_time
from stages.flow.training_log import LOG_SUFFIX, NET_SUFFIX, read_log_lines, select_last_training
from stages.nets.net_description import METADATA_KEY, parse_description
from stages.shards import unfinished_path
from stages.shards.disk import is_locked_on_this_machine

FINISHED, RUNNING, UNFINISHED, UNKNOWN = "finished", "running", "unfinished", "unknown"
_CHECKPOINT_KEY = "wsss-training"
_MAX_HEADER = 100_000_000  # bytes; safetensors allows no longer header


def is_training(path: str) -> bool:
    """Return whether a path is that of a network, a checkpoint of a training or a log."""
    return path.removesuffix(".part").endswith(NET_SUFFIX) or path.endswith(LOG_SUFFIX)


def describe_training(path: str) -> dict[str, Any]:
    """Return what is known of a training: `state`, `step`, `settings`, `lines` of its log, and `notes`.

    The path may be that of a network that does not exist yet. Raises MissingInput, and BadData for a file that is
    neither a network, a checkpoint nor a log of a training.
    """
    given = Path(path)
    if given.suffix == LOG_SUFFIX:
        return _describe_log(given)
    net = Path(path.removesuffix(".part"))
    log, checkpoint, lock = net.with_suffix(".log.jsonl"), unfinished_path(net), net.with_name(net.name + ".lock")
    if not any(file.exists() for file in (net, checkpoint, lock, log)):
        raise MissingInput("does not exist, and no training is writing it", "Check the path", where=path)
    description = {"path": path, "type": "training", "state": _find_state(net, checkpoint, lock),
                   "step": None, "log": str(log) if log.is_file() else None, "notes": []}
    description |= _describe_origin(net, checkpoint)
    _add_lines(description, log)
    if description["state"] == UNFINISHED:
        description["notes"].append("Run the same command again to resume the training.")
    return description


def _describe_log(log: Path) -> dict[str, Any]:
    """Describe a log of its own. Next to its network, the log is that of the network."""
    if not log.is_file():
        raise MissingInput("does not exist", "Check the path", where=str(log))
    net = log.with_name(log.name.removesuffix(".log.jsonl") + NET_SUFFIX)
    if log.name.endswith(".log.jsonl") and (net.exists() or unfinished_path(net).exists()):
        return {**describe_training(str(net)), "path": str(log)}
    description: dict[str, Any] = {"path": str(log), "type": "training", "state": UNKNOWN, "step": None,
                                   "log": str(log), "notes": []}
    _add_lines(description, log)
    if not description["lines"]:
        raise BadData("has no line of a training (with `step` and `loss`) nor of a run",
                      "Give the log of a training, such as cam.log.jsonl next to cam.safetensors", where=str(log))
    description["notes"].append("The log has no settings: they are in the network, which is not next to it.")
    return description


def _find_state(net: Path, checkpoint: Path, lock: Path) -> str:
    if is_locked_on_this_machine(lock):
        return RUNNING
    if checkpoint.exists() or lock.exists():
        return UNFINISHED
    return FINISHED if net.exists() else UNKNOWN


def _describe_origin(net: Path, checkpoint: Path) -> dict[str, Any]:
    """Return stage, method and settings: those of the checkpoint of a training in progress, else of the network."""
    if checkpoint.exists():
        header = _read_metadata(checkpoint, _CHECKPOINT_KEY)
        if header is not None:
            return {**_select_settings(header.get("request", {})), "step": header.get("step")}
    if net.exists():
        header = _read_metadata(net, METADATA_KEY, parse=False)
        entries = parse_description(header, str(net))["provenance"]
        return _select_settings(entries[-1])
    return {}


def _select_settings(entry: dict[str, Any]) -> dict[str, Any]:
    return {"stage": " ".join(filter(None, (entry.get("stage"), entry.get("method")))),
            "settings": entry.get("config", {})}


def _read_metadata(path: Path, key: str, *, parse: bool = True) -> Any:
    """Return an entry of the metadata of a safetensors file, without reading the tensors.

    Returns None for a checkpoint that vanished since. Raises BadData.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length < _MAX_HEADER:
                raise ValueError("no header")
            text = json.loads(stream.read(length)).get("__metadata__", {}).get(key)
            return json.loads(text) if parse else text
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise BadData("the file is damaged, or not a network or checkpoint of wsss", "Check the path",
                      where=str(path)) from None


def _add_lines(description: dict[str, Any], log: Path) -> None:
    """Add the epochs of the last training in a log, how long they took, and when the log was last written."""
    objects = read_log_lines(log) if log.is_file() else []
    lines, num_trainings = select_last_training(
        line for line in objects if isinstance(line.get("step"), int) and "loss" in line)
    description |= {"lines": lines, "num_trainings": num_trainings, "seconds": None, "last_written": None}
    if not lines:
        description["notes"].append(f"No epoch is logged in {log}. If the training wrote its log elsewhere (--log), "
                                    "give that file.")
        return
    durations = [line["seconds"] for line in lines if isinstance(line.get("seconds"), (int, float))]
    description["seconds"] = round(sum(durations), 2) if durations else None
    description["last_written"] = format_file_time(log)
    if num_trainings > 1:
        description["notes"].append(f"The log holds {num_trainings} trainings; this is the last one.")
