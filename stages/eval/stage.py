"""`eval`: score CAMs and masks against the ground truth of their index."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import BadData, Stopped, UsageError
from stages.eval.config import EvalConfig
from stages.eval.score import BackgroundSweep, ConfusionMatrix, build_prediction, summarise_iou
from stages.flow.background import resolve_background
from stages.flow.device import reuse_freed_memory
from stages.flow.execution import Inputs, Report, Stop
from stages.flow.ground_truth import Truth, open_truth
from stages.flow.item_arrays import extract_mask, includes_background, read_image_size, resize_to_image_in_bands
from stages.flow.mask_findings import report_contradictions
from stages.kernels.background import Background
from stages.shards import Run, combine_digests
from stages.shards.disk import make_folder, replace_file

_SWEEPS = {"sweep": False, "sweep-power": True}
_TRAINED_ON_ALL = "The network was trained on these images, so the mIoU says nothing about new images."


def evaluate(config: EvalConfig, inputs: Inputs, *, stop: Stop, report: Report) -> dict[str, Any]:
    """Return the result that `wsss eval --json` prints.

    Raises UsageError, MissingInput (a missing part of the run, no ground truth), BadData. Memory: the stored CAMs and
    the masks of one image at a time, and counts of the size of classes x thresholds.
    """
    reuse_freed_memory()
    run = Run(inputs.paths, ("cams", "masks"))
    truth = _open_truth(run, inputs)
    scorer = _Scorer(run, config)
    report.start_progress("", truth.num_images)
    counts = _ImageCounts(_list_training_images(run))
    for item_id in truth.iterate_ids():
        if stop.requested:
            raise Stopped("stopped before the end", "Run the same command again")
        report.advance()
        if truth.has_mask(item_id):
            counts.add(item_id, has_prediction=scorer.add(truth, item_id))
    if not counts.with_truth:
        raise truth.build_missing_error()
    report_contradictions(truth.indexes, report)
    _report_caveats(run, truth, counts, config, scorer, report)
    return _build_result(scorer, config, run, truth, counts)


def describe_plan(inputs: Inputs) -> str:
    """Return what `evaluate` would do, for a dry run. Raises MissingInput, BadData."""
    run = Run(inputs.paths, ("cams", "masks"))
    truth = _open_truth(run, inputs)
    num_with_truth = sum(map(truth.has_mask, truth.iterate_ids()))
    if not num_with_truth:
        raise truth.build_missing_error()
    return f"score {run.kind} on {num_with_truth} images with ground truth"


class _ImageCounts:
    """Counts images with ground truth, those of them without a prediction, and those that were trained on."""

    def __init__(self, training_images: set[str] | None) -> None:
        """Start at zero; `training_images` are the ids that the network was trained on, None if they are unknown."""
        self.training_images = training_images
        self.with_truth = self.missing = self.trained_on = 0

    def add(self, item_id: str, *, has_prediction: bool) -> None:
        """Count an image with ground truth."""
        self.with_truth += 1
        self.missing += not has_prediction
        self.trained_on += item_id in (self.training_images or ())


def _open_truth(run: Run, inputs: Inputs) -> Truth:
    """Return the ground truth. Raises UsageError if both an index and a folder of masks are given."""
    folder = inputs.named.get("truth")
    if folder is not None and inputs.index:
        raise UsageError(f"--truth {folder} and --index {inputs.index} both give the ground truth", "Use one of them")
    return open_truth(run, folder, inputs.index, inputs.root)


def _list_training_images(run: Run) -> set[str] | None:
    """Return the ids of the run that its network was trained on; None if the run does not tell."""
    marks = run.read_in_training()
    return None if marks is None else {item_id for item_id, mark in zip(run.ids, marks, strict=True) if mark}


def save_result(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON. Raises CannotCreate, IoFailed."""
    make_folder(path.absolute().parent)
    replace_file(path, (json.dumps(result, indent=1) + "\n").encode())


class _Scorer:
    """Compares the predictions of a run with the ground truth, image by image, and adds up the counts."""

    def __init__(self, run: Run, config: EvalConfig) -> None:
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

    def add(self, source: Truth, item_id: str) -> bool:
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
                          f"{tuple(expected)}", "Give the ground truth of these images, or make the run again",
                          where=item_id)


def _report_caveats(run: Run, truth: Truth, counts: _ImageCounts, config: EvalConfig, scorer: _Scorer,
                    report: Report) -> None:
    """Report what a reader of the numbers must know: missing images, and numbers that are too good."""
    if counts.missing and config.skip_missing:
        report.info(f"Skipped {counts.missing} of {counts.with_truth} images because they have no prediction.")
    elif counts.missing:
        report.info(f"Counted {counts.missing} of {counts.with_truth} images as background because they have no "
                    "prediction. Use --skip-missing to skip such images.")
    if scorer.sweep:
        report.info("The background score was chosen on the ground truth that is scored, so the mIoU is optimistic.")
    truth.report_skipped_images(report)
    if counts.training_images is None:
        if _was_trained_on_index(run):
            report.info(_TRAINED_ON_ALL)
    elif counts.trained_on == counts.with_truth:
        report.info(_TRAINED_ON_ALL)
    elif counts.trained_on:
        report.info(f"The network was trained on {counts.trained_on} of the {counts.with_truth} images, so the mIoU is "
                    "optimistic about new images.")


def _was_trained_on_index(run: Run) -> bool:
    """Return whether a network of format 1.0, which does not list its images, was trained on the index of the run."""
    trained_on = {entry.get("inputs", {}).get("net_index") for entry in run.first.provenance}
    digests = sorted({shard.index_digest for shard in run.shards})
    return bool(trained_on & {*digests, combine_digests(digests)})


def _build_result(scorer: _Scorer, config: EvalConfig, run: Run, truth: Truth, counts: _ImageCounts) -> dict[str, Any]:
    if scorer.sweep:
        value, pixels = scorer.sweep.select_best(config.rule)
        background: dict[str, Any] | None = {"rule": scorer.sweep.rule, "value": value, "chosen_on": "ground-truth",
                                             **truth.describe()}
    else:
        pixels, background = scorer.confusion.count_pixels(), scorer.background_record
        if scorer.background:
            values = scorer.background.values
            background = {**background, "rule": scorer.background.rule,
                          "value": values[0] if len(values) == 1 else values}
    mean, iou_by_class = summarise_iou(pixels, run.classes, config.rule)
    num_pixels = int(pixels.truth.sum())
    coverage = 1.0 if scorer.sweep else scorer.confusion.num_decided / max(1, num_pixels)
    return {
        "miou": mean, "per_class": iou_by_class,
        "images": counts.with_truth - (counts.missing if config.skip_missing else 0), "missing": counts.missing,
        "refused": truth.num_rejected, "coverage": round(coverage, 6),
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
