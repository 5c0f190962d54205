"""`eval`: maps, masks and predictions against the truth of their index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.source import ImageSource
from stages.errors import BadData, MissingInput, Stopped, UsageError
from stages.eval.config import EvalConfig
from stages.eval.score import MaskScore, SweepScore, prediction_of, summary_of
from stages.flow.background import resolve_background
from stages.flow.device import use_threads
from stages.flow.execution import Inputs, Report, Stop
from stages.flow.maps import full_size, includes_background, mask_ids
from stages.flow.parts import find_index
from stages.kernels.background import Background
from stages.shards import Run, Shard, same_classes
from stages.shards.disk import make_folder, replace_file

_SWEEPS = {"sweep": False, "sweep-power": True}


def evaluate(config: EvalConfig, inputs: Inputs, *, stop: Stop, report: Report) -> dict[str, Any]:
    """Return the result that `wsss eval --json` prints.

    Raises UsageError, MissingInput (a hole in the run, no truth), BadData. Memory: one image at a time, and
    counts of the size of classes x thresholds.
    """
    use_threads(1)  # the maps are small: on all cores the same work took twice the processor time
    run = Run(inputs.paths, ("cams", "masks"))
    indexes = _indexes(run, inputs)
    scorer = _Scorer(run, config, indexes[0])
    report.begin("eval", sum(len(shard.ids) for shard in indexes))
    with_truth = missing = 0
    for source in (ImageSource(shard, inputs.root) for shard in indexes):
        for item_id in source.index.ids:
            if stop.requested:
                raise Stopped("stopped", "run the same command again")
            report.advance()
            if _has_truth(source, item_id):
                with_truth += 1
                missing += not scorer.add(source, item_id)
    if not with_truth:
        raise _no_truth(indexes)
    _tell(run, indexes, missing, config, scorer, report)
    return _result(scorer, config, run, indexes, with_truth, missing)


def plan(inputs: Inputs) -> str:
    """Return what `evaluate` would do, in words. Raises MissingInput, BadData."""
    run = Run(inputs.paths, ("cams", "masks"))
    indexes = _indexes(run, inputs)
    sources = [ImageSource(shard, inputs.root) for shard in indexes]
    count = sum(_has_truth(source, item_id) for source in sources for item_id in source.index.ids)
    if not count:
        raise _no_truth(indexes)
    return f"score {run.kind} on {count} images with a truth"


def _has_truth(source: ImageSource, item_id: str) -> bool:
    return item_id not in source.index.errors and source.has_mask(item_id)


def _no_truth(indexes: list[Shard]) -> MissingInput:
    return MissingInput("the index has no masks to compare with", "index it with --masks", where=str(indexes[0].path))


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON. Raises CannotCreate, IoFailed."""
    make_folder(path.absolute().parent)
    replace_file(path, (json.dumps(result, indent=1) + "\n").encode())


def _indexes(run: Run, inputs: Inputs) -> list[Shard]:
    """Return the index shards behind a run, each once."""
    found = {find_index(shard, inputs.index) for shard in run.shards}
    indexes = [Shard(path, "index") for path in sorted(found)]
    same_classes((str(run.first.path), run.classes), (str(indexes[0].path), indexes[0].classes))
    return indexes


class _Scorer:
    """Adds up one image after the other."""

    def __init__(self, run: Run, config: EvalConfig, index: Shard) -> None:
        self.run, self.config = run, config
        self.n_classes = n_classes = len(run.classes) - 1
        self.ignore = 255 if n_classes <= 254 else 65535
        self.background: Background | None = None
        self.recorded: dict[str, Any] | None = None
        self.sweep: SweepScore | None = None
        self.score = MaskScore(n_classes, self.ignore, skip_ignored=config.ignore_predicted)
        if run.kind == "cams" and not includes_background(run.first):
            if config.background in _SWEEPS:
                self.sweep = SweepScore(n_classes, self.ignore, power=_SWEEPS[config.background])
            else:
                self.background, self.recorded = resolve_background(config.background)
        elif config.background not in _SWEEPS:
            raise UsageError(f"--background has no meaning for {run.first.path}", "its background is decided")

    def add(self, source: ImageSource, item_id: str) -> bool:
        """Add one image; False when it has no prediction."""
        there = item_id in self.run
        if not there and self.config.skip_missing:
            return False
        truth = source.mask(item_id)
        if self.run.kind == "masks":
            prediction = mask_ids(self.run.item(item_id), self.n_classes) if there else np.zeros_like(truth)
            self._same_size(prediction.shape, truth.shape, item_id)
            self.score.add(truth, prediction)
            return there
        rows, ids = np.zeros((0, *truth.shape), np.float32), np.zeros(0, np.uint16)
        if there:
            rows, ids = full_size(self.run.item(item_id), self.n_classes)
            self._same_size(rows.shape[1:], truth.shape, item_id)
        if self.sweep:
            self.sweep.add(truth, rows, ids)
        elif there or self.background:
            self.score.add(truth, prediction_of(rows, ids, self.background, self.ignore))
        else:
            self.score.add(truth, np.zeros_like(truth))
        return there

    def _same_size(self, found: tuple[int, ...], wanted: tuple[int, ...], item_id: str) -> None:
        if tuple(found) != tuple(wanted):
            raise BadData(f"the prediction is {tuple(found)}, the truth {tuple(wanted)}",
                          "make it from the same images", where=item_id)


def _tell(run: Run, indexes: list[Shard], missing: int, config: EvalConfig, scorer: _Scorer, report: Report) -> None:
    if missing:
        how = "left out" if config.skip_missing else "counted as background"
        report.tell(f"{missing} images have no prediction and are {how}")
    if scorer.sweep:
        report.tell("the background was chosen on the ground truth of this index: an optimistic number")
    refused = sum(len(shard.errors) for shard in indexes)
    if refused:
        report.tell(f"{refused} images were refused by the index and are not scored")
    trained_on = {entry["inputs"].get("net_index") for entry in run.first.provenance}
    if trained_on & {indexes[0].digest, Run([shard.path for shard in indexes], whole=False).digest}:
        report.tell("the net was trained on this index: the number says nothing of new images")


def _result(scorer: _Scorer, config: EvalConfig, run: Run, indexes: list[Shard], images: int,
            missing: int) -> dict[str, Any]:
    if scorer.sweep:
        value, counts = scorer.sweep.best(config.rule)
        chosen: dict[str, Any] | None = {"rule": scorer.sweep.rule, "value": value, "chosen_on": "ground-truth",
                                         "index": indexes[0].digest}
    else:
        counts, chosen = scorer.score.counts(), scorer.recorded
        if scorer.background:
            values = scorer.background.values
            chosen = {**chosen, "rule": scorer.background.rule, "value": values[0] if len(values) == 1 else values}
    mean, each = summary_of(counts, run.classes, config.rule)
    pixels = int(counts.truth.sum())
    coverage = 1.0 if scorer.sweep else scorer.score.decided / max(1, pixels)
    return {
        "miou": mean, "per_class": each, "images": images - (missing if config.skip_missing else 0),
        "missing": missing, "refused": sum(len(shard.errors) for shard in indexes), "coverage": round(coverage, 6),
        "rule": config.rule, "background": chosen, "protocol": _protocol(config, run),
    }


def _protocol(config: EvalConfig, run: Run) -> str:
    classes = run.classes
    background = "with background" if classes[0] else "without background"
    ignored = "skipped" if config.ignore_predicted else "misses"
    absent = "left out" if config.skip_missing else "background"
    return (f"{len(classes) - (not classes[0])} classes {background}; 255 in the truth skipped, in predictions "
            f"{ignored}; images without prediction {absent}; classes that count: {config.rule}{_by_words(run)}")


def _by_words(run: Run) -> str:
    """Return how a network was asked by words, where the predictions come from one: scores differ by tens with it."""
    entries = [entry for entry in run.first.provenance if "protocol" in entry.get("config", {})]
    if not entries:
        return ""
    told, method = entries[-1]["config"], entries[-1]["method"]
    pamr = f"PAMR {','.join(map(str, told['dilations']))} x {told['iterations']}" if told["pamr"] else "no PAMR"
    threshold = f", threshold {told['threshold']}" if told["background"] in ("threshold", "both") else ""
    shift = f" shifted by {told['shift']}" if told["score"] == "sigmoid" and "shift" in told else ""
    score = f"{told['score']} at {told['scale']}{shift}"
    if told.get("knowledge"):
        score = f"the net's masks with {told['knowledge']} of CLIP's own"
    elif told["scale"] is None:
        score = "the net's masks"
    smooth = ", smoothed" if told.get("smooth") else ""
    area = f", classes below {told['area_threshold']} of an image left out" if told.get("area_threshold") else ""
    released = ", as released" if told.get("as_released") else ""
    return (f"; {method} by words ({told['protocol']}): short side {told['short_side']}{smooth}, "
            f"windows of {told['window']} every {told['stride']}, "
            f"{told.get('statistics', 'net')} statistics, names {told['words']['source']}, "
            f"{len(told['template'])} templates, {score}, background by {told['background']}{threshold}{area}, {pamr}, "
            f"mean of the windows' {told['blend']}{released}")
