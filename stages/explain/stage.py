"""`explain`: reads an index, networks and masks, and returns what their numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.errors import BadData, Stopped
from stages.explain.advice import explain_index, explain_masks, explain_training
from stages.flow.execution import Stop
from stages.flow.training_log import find_training_log, is_training_path, read_training_log
from stages.shards import Run


def explain_paths(paths: Sequence[str], stop: Stop) -> list[str]:
    """Return lines that explain indices, mask runs, and networks or logs of trainings, in the order given.

    The tags of masks come from the index that is among the paths; without one masks are not compared with tags.
    Raises MissingInput, BadData (a shard of another kind), Stopped.
    """
    tags: dict[str, Sequence[int] | None] = {}
    lines: list[str] = []
    for path in paths:
        if is_training_path(path):
            lines += explain_training(Path(path).name, read_training_log(find_training_log(path))[0])
            continue
        run = Run([path])
        if run.first.kind == "index":
            labels = _read_labels(run, stop)
            tags |= labels
            lines += explain_index(list(labels.values()), run.classes)
        elif run.first.kind == "masks":
            lines += _explain_mask_run(path, run, tags, stop)
        else:
            raise BadData(f"has shards of the kind {run.first.kind}, which explain does not read",
                          "Give an index, networks and masks", where=path)
    return lines


def _read_labels(index: Run, stop: Stop) -> dict[str, Sequence[int] | None]:
    labels: dict[str, Sequence[int] | None] = {}
    for shard in index.shards:
        for item_id, ids in shard.iterate_datasets("labels"):
            _check_stop(stop)
            labels[item_id] = None if ids is None else [int(number) for number in ids]
    return labels


def _explain_mask_run(path: str, run: Run, tags: dict[str, Sequence[int] | None], stop: Stop) -> list[str]:
    counts, labels, num_ignored = [], [], 0
    for shard in run.shards:
        for item_id, mask in shard.iterate_datasets("mask"):
            _check_stop(stop)
            if mask is None:
                continue
            row = np.bincount(mask.ravel(), minlength=len(run.classes))
            num_ignored += int(row[len(run.classes):].sum())
            counts.append(row[:len(run.classes)])
            labels.append(tags.get(item_id))
    return explain_masks(path, np.array(counts).reshape(-1, len(run.classes)), labels, run.classes, num_ignored)


def _check_stop(stop: Stop) -> None:
    if stop.requested:
        raise Stopped("stopped by a signal", "Run the same command again")
