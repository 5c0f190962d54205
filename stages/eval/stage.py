"""`eval`: score CAMs and masks against the ground truth of their index."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.image_source import ImageSource
from stages.errors import BadData, MissingInput, Stopped, UsageError
from stages.eval.config import EvalConfig
from stages.eval.score import BackgroundSweep, ConfusionMatrix, build_prediction, summarise_iou
from stages.flow.background import resolve_background
from stages.flow.device import reuse_freed_memory
from stages.flow.execution import Inputs, Report, Stop
from stages.flow.item_arrays import extract_mask, includes_background, read_image_size, resize_to_image_in_bands
from stages.flow.parts import find_index
from stages.kernels.background import Background
from stages.shards import Run, Shard, check_same_classes
from stages.shards.disk import make_folder, replace_file

_SWEEPS = {"sweep": False, "sweep-power": True}


def evaluate(config: EvalConfig, inputs: Inputs, *, stop: Stop, report: Report) -> dict[str, Any]:
    """Return the result that `wsss eval --json` prints.

    Raises UsageError, MissingInput (a missing part of the run, no ground truth), BadData. Memory: the stored CAMs and
    the masks of one image at a time, and counts of the size of classes x thresholds.
    """
    reuse_freed_memory()
    run = Run(inputs.paths, ("cams", "masks"))
    indexes = _open_indexes(run, inputs)
    scorer = _Scorer(run, config, indexes[0])
    report.start_progress("", sum(len(shard.ids) for shard in indexes))
    num_with_truth = num_missing = 0
    for source in (ImageSource(shard, inputs.root) for shard in indexes):
        for item_id in source.index.ids:
            if stop.requested:
                raise Stopped("stopped before the end", "Run the same command again")
            report.advance()
            if _has_truth(source, item_id):
                num_with_truth += 1
                num_missing += not scorer.add(source, item_id)
    if not num_with_truth:
        raise _missing_truth(indexes)
    _report_caveats(run, indexes, num_missing, num_with_truth, config, scorer, report)
    return _build_result(scorer, config, run, indexes, num_with_truth, num_missing)


def describe_plan(inputs: Inputs) -> str:
    """Return what `evaluate` would do, for a dry run. Raises MissingInput, BadData."""
    run = Run(inputs.paths, ("cams", "masks"))
    indexes = _open_indexes(run, inputs)
    sources = [ImageSource(shard, inputs.root) for shard in indexes]
    num_with_truth = sum(_has_truth(source, item_id) for source in sources for item_id in source.index.ids)
    if not num_with_truth:
        raise _missing_truth(indexes)
    return f"score {run.kind} on {num_with_truth} images with ground truth"


def _has_truth(source: ImageSource, item_id: str) -> bool:
    return item_id not in source.index.errors and source.has_mask(item_id)


def _missing_truth(indexes: list[Shard]) -> MissingInput:
    return MissingInput("the index has no ground-truth masks to compare with", "Run `wsss index` again with --masks",
                        where=str(indexes[0].path))


def save_result(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON. Raises CannotCreate, IoFailed."""
    make_folder(path.absolute().parent)
    replace_file(path, (json.dumps(result, indent=1) + "\n").encode())


def _open_indexes(run: Run, inputs: Inputs) -> list[Shard]:
    """Return the index shards from which a run was made, without duplicates."""
    index_paths = {find_index(shard, inputs.index) for shard in run.shards}
    indexes = [Shard(path, "index") for path in sorted(index_paths)]
    check_same_classes((str(run.first.path), run.classes), (str(indexes[0].path), indexes[0].classes))
    return indexes


class _Scorer:
    """Compares the predictions of a run with the ground truth, image by image, and adds up the counts."""

    def __init__(self, run: Run, config: EvalConfig, index: Shard) -> None:
        self.run, self.config = run, config
        self.num_classes = num_classes = len(run.classes) - 1
        self.ignore_index = 255 if num_classes <= 254 else 65535
        self.background: Background | None = None
        self.background_record: dict[str, Any] | None = None
        self.sweep: BackgroundSweep | None = None
        self.confusion = ConfusionMatrix(num_classes, self.ignore_index, skip_ignored=config.ignore_predicted)
        if run.kind == "cams" and not includes_background(run.first):
            if config.background in _SWEEPS:
                self.sweep = BackgroundSweep(num_classes, self.ignore_index, power=_SWEEPS[config.background])
            else:
                self.background, self.background_record = resolve_background(config.background)
        elif config.background not in _SWEEPS:
            raise UsageError(f"--background {config.background} does not apply to {run.first.path}, which already has "
                             "a background", "Remove --background")

    def add(self, source: ImageSource, item_id: str) -> bool:
        """Add one image; return False if it has no prediction."""
        has_prediction = item_id in self.run
        if not has_prediction and self.config.skip_missing:
            return False
        truth = source.read_mask(item_id)
        if not has_prediction:
            self._add_bands(truth, [(slice(None), np.zeros((0, *truth.shape), np.float32), np.zeros(0, np.uint16))])
        elif self.run.kind == "masks":
            mask = extract_mask(self.run.item(item_id, exclude=("confidence",)), self.num_classes)
            self._check_size(mask.shape, truth.shape, item_id)
            self.confusion.add(truth, mask)
        else:
            item = self.run.item(item_id)
            self._check_size(read_image_size(item), truth.shape, item_id)
            self._add_bands(truth, resize_to_image_in_bands(item, self.num_classes))
        return has_prediction

    def _add_bands(self, truth: np.ndarray, bands: Iterable[tuple[slice, np.ndarray, np.ndarray]]) -> None:
        """Add an image from its upsampled CAMs: (slice of the rows, rows of the CAMs, class ids) of each band."""
        for band, rows, ids in bands:
            if self.sweep:
                self.sweep.add(truth[band], rows, ids)
            else:
                self.confusion.add(truth[band], build_prediction(rows, ids, self.background, self.ignore_index))

    def _check_size(self, predicted: tuple[int, ...], expected: tuple[int, ...], item_id: str) -> None:
        if tuple(predicted) != tuple(expected):
            raise BadData(f"the prediction has the size {tuple(predicted)}, but the ground truth has "
                          f"{tuple(expected)}", "Make the run again from the images of this index", where=item_id)


def _report_caveats(run: Run, indexes: list[Shard], num_missing: int, num_with_truth: int, config: EvalConfig,
                    scorer: _Scorer, report: Report) -> None:
    """Report what a reader of the numbers must know: missing images, and numbers that are too good."""
    if num_missing and config.skip_missing:
        report.info(f"Skipped {num_missing} of {num_with_truth} images because they have no prediction.")
    elif num_missing:
        report.info(f"Counted {num_missing} of {num_with_truth} images as background because they have no prediction. "
                    "Use --skip-missing to skip such images.")
    if scorer.sweep:
        report.info("The background score was chosen on the ground truth of this index, so the mIoU is optimistic.")
    num_rejected = sum(len(shard.errors) for shard in indexes)
    if num_rejected:
        num_images = sum(len(shard.ids) for shard in indexes)
        report.info(f"Skipped {num_rejected} of {num_images} images because the index rejected them. List them with "
                    f"`wsss info {indexes[0].path}`.")
    trained_on = {entry["inputs"].get("net_index") for entry in run.first.provenance}
    if trained_on & {indexes[0].digest, Run([shard.path for shard in indexes], require_all=False).digest}:
        report.info("The network was trained on this index, so the mIoU says nothing about new images.")


def _build_result(scorer: _Scorer, config: EvalConfig, run: Run, indexes: list[Shard], num_with_truth: int,
                  num_missing: int) -> dict[str, Any]:
    if scorer.sweep:
        value, counts = scorer.sweep.select_best(config.rule)
        background: dict[str, Any] | None = {"rule": scorer.sweep.rule, "value": value, "chosen_on": "ground-truth",
                                             "index": indexes[0].digest}
    else:
        counts, background = scorer.confusion.count_pixels(), scorer.background_record
        if scorer.background:
            values = scorer.background.values
            background = {**background, "rule": scorer.background.rule,
                          "value": values[0] if len(values) == 1 else values}
    mean, iou_by_class = summarise_iou(counts, run.classes, config.rule)
    num_pixels = int(counts.truth.sum())
    coverage = 1.0 if scorer.sweep else scorer.confusion.num_decided / max(1, num_pixels)
    return {
        "miou": mean, "per_class": iou_by_class,
        "images": num_with_truth - (num_missing if config.skip_missing else 0), "missing": num_missing,
        "refused": sum(len(shard.errors) for shard in indexes), "coverage": round(coverage, 6),
        "rule": config.rule, "background": background, "protocol": _describe_protocol(config, run),
    }


def _describe_protocol(config: EvalConfig, run: Run) -> str:
    """Return in words how predictions were made and compared: the `protocol` of the result."""
    classes = run.classes
    background = "with background" if classes[0] else "without background"
    ignored = "skipped" if config.ignore_predicted else "misses"
    absent = "left out" if config.skip_missing else "background"
    return (f"{len(classes) - (not classes[0])} classes {background}; 255 in the truth skipped, in predictions "
            f"{ignored}; images without prediction {absent}; classes that count: {config.rule}"
            f"{_describe_word_protocol(run)}")


def _describe_word_protocol(run: Run) -> str:
    """Return how images were compared with words, if they were: it changes the mIoU by tens of points."""
    entries = [entry for entry in run.first.provenance if "protocol" in entry.get("config", {})]
    if not entries:
        return ""
    settings, method = entries[-1]["config"], entries[-1]["method"]
    pamr = "no PAMR"
    if settings["pamr"]:
        pamr = f"PAMR {','.join(map(str, settings['dilations']))} x {settings['iterations']}"
    threshold = f", threshold {settings['threshold']}" if settings["background"] in ("threshold", "both") else ""
    shift = f" shifted by {settings['shift']}" if settings["score"] == "sigmoid" and "shift" in settings else ""
    score = f"{settings['score']} at {settings['scale']}{shift}"
    if settings.get("knowledge"):
        score = f"the net's masks with {settings['knowledge']} of CLIP's own"
    elif settings["scale"] is None:
        score = "the net's masks"
    smooth = ", smoothed" if settings.get("smooth") else ""
    area = ""
    if settings.get("area_threshold"):
        area = f", classes below {settings['area_threshold']} of an image left out"
    released = ", as released" if settings.get("as_released") else ""
    return (f"; {method} by words ({settings['protocol']}): short side {settings['short_side']}{smooth}, "
            f"windows of {settings['window']} every {settings['stride']}, "
            f"{settings.get('statistics', 'net')} statistics, names {settings['words']['source']}, "
            f"{len(settings['template'])} templates, {score}, background by {settings['background']}{threshold}{area}, "
            f"{pamr}, mean of the windows' {settings['blend']}{released}")
