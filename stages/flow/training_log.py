"""Reads the log of a training: one JSON object per line, which `stages.training.loop` writes after each epoch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput
from stages.flow.execution import Report

LOG_SUFFIX, NET_SUFFIX = ".jsonl", ".safetensors"
_TRAIN = "Give the log of a training, such as cam.log.jsonl next to cam.safetensors"


def is_training_path(path: str) -> bool:
    """Return whether a path is that of a network or of a log, to judge by its suffix."""
    return Path(path).suffix in (LOG_SUFFIX, NET_SUFFIX)


def find_training_log(path: str) -> Path:
    """Return the log of a network, or the path itself if it is a log. Raises MissingInput if there is no such file."""
    given = Path(path)
    log = given if given.suffix == LOG_SUFFIX else given.with_suffix(".log.jsonl")
    if not given.is_file():
        raise MissingInput("does not exist", "Check the path", where=path)
    if not log.is_file():
        raise MissingInput(f"has no training log: {log} does not exist",
                           "If the training wrote it elsewhere (--log), draw it with `wsss show LOG.jsonl -o FILE.png`",
                           where=path)
    return log


def read_training_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of the last training in a log, in the order of their steps, and the number of trainings.

    A training starts where the step falls, so one that was interrupted and resumed counts once; a line of the same step
    replaces the one before it. Raises BadData if the log has no line of a training.
    """
    lines, num_trainings = select_last_training(
        line for line in read_log_lines(path) if isinstance(line.get("step"), int) and "loss" in line)
    if not lines:
        raise BadData("has no line of a training (with `step` and `loss`)", _TRAIN, where=str(path))
    return lines, num_trainings


def select_last_training(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of the last of several trainings, as `read_training_log`; ([], 0) without lines."""
    trainings: list[dict[int, dict[str, Any]]] = []
    for line in lines:
        if not trainings or line["step"] < max(trainings[-1]):
            trainings.append({})
        trainings[-1][line["step"]] = line
    if not trainings:
        return [], 0
    return [trainings[-1][step] for step in sorted(trainings[-1])], len(trainings)


def read_log_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a log of JSON lines. A torn last line, and whatever else is no object, is skipped."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def read_last_trainings(paths: Sequence[str], report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of the last training in each log, by its name, or by the path given if names repeat.

    Raises MissingInput and BadData as `find_training_log` and `read_training_log` do.
    """
    logs: dict[str, list[dict[str, Any]]] = {}
    for path in dict.fromkeys(paths):
        log = find_training_log(path)
        lines, num_trainings = read_training_log(log)
        if num_trainings > 1:
            report.info(f"{log} holds {num_trainings} trainings; drawing the last one.")
        name = log.name.removesuffix(".jsonl").removesuffix(".log")
        logs[path if name in logs else name] = lines
    return logs
