"""Compares the predictions of a run with the ground truth, image by image, and adds up the counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.errors import BadData, UsageError
from stages.eval.config import EvalConfig
from stages.eval.image_counts import ImageCounts
from stages.eval.score import BackgroundSweep, ConfusionMatrix, build_prediction
from stages.flow.background import resolve_background
from stages.flow.counting import Advance, Counts
from stages.flow.ground_truth import Truth
from stages.flow.item_arrays import extract_mask, includes_background, read_image_size, resize_to_image_in_bands
from stages.kernels.background import Background, compute_confidence, find_best_class
from stages.kernels.boundary_iou import count_boundary_pixels
from stages.kernels.calibration import Calibration
from stages.kernels.mean_iou import confusion_matrix, count_pixels
from stages.shards import Run

SWEEPS = {"sweep": False, "sweep-power": True}


def needs_background(run: Run) -> bool:
    """Return whether a run has CAMs without a background."""
    return run.kind == "cams" and not includes_background(run.first)


class Scorer:
    """Adds up the counts of a run: of all background scores at once, or of one prediction per image."""

    def __init__(self, run: Run, config: EvalConfig) -> None:
        """Start at zero. Raises UsageError for a background that does not apply, MissingInput, BadData."""
        self.run, self.config = run, config
        self.num_classes = num_classes = len(run.classes) - 1
        self.ignore_index = 255 if num_classes <= 254 else 65535
        self.background: Background | None = None
        self.background_record: dict[str, Any] | None = None
        self.sweep: BackgroundSweep | None = None
        self.confusion = ConfusionMatrix(num_classes, self.ignore_index, skip_ignored=config.ignore_predicted)
        if needs_background(run):
            if config.background in SWEEPS:
                self.sweep = BackgroundSweep(num_classes, self.ignore_index, power=SWEEPS[config.background])
            else:
                self.background, self.background_record = resolve_background(config.background)
        elif config.background not in SWEEPS:
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
            _check_size(mask.shape, truth.shape, item_id)
            self.confusion.add(truth, mask)
        else:
            item = self.run.item(item_id)
            _check_size(read_image_size(item), truth.shape, item_id)
            self._add_bands(truth, resize_to_image_in_bands(item, self.num_classes))
        return has_prediction

    def export_counts(self) -> Counts:
        """Return the counts, which add up over images."""
        if self.sweep:
            return {f"sum.sweep.{name}": values for name, values in self.sweep.sweep.counts.items()}
        return {"sum.matrix": self.confusion.matrix}

    def add_counts(self, counts: Counts) -> None:
        """Add exported counts of other images."""
        if self.sweep:
            self.sweep.sweep.add_counts({name: counts[f"sum.sweep.{name}"] for name in self.sweep.sweep.counts})
        else:
            self.confusion.add_matrix(counts["sum.matrix"])

    def _add_bands(self, truth: np.ndarray, bands: Iterable[tuple[slice, np.ndarray, np.ndarray]]) -> None:
        """Add an image from its upsampled CAMs: (slice of the rows, rows of the CAMs, class ids) of each band."""
        for band, rows, ids in bands:
            if self.sweep:
                self.sweep.add(truth[band], rows, ids)
            else:
                self.confusion.add(truth[band], build_prediction(rows, ids, self.background, self.ignore_index))


class DetailedScorer:
    """Counts every image of a run on its own, with a background score that is known: for intervals and tables."""

    def __init__(self, run: Run, config: EvalConfig, background: Background | None) -> None:
        """Start without images. Raises UsageError for `calibration` of masks without a confidence."""
        self.run, self.config, self.background = run, config, background
        self.num_ids = len(run.classes)
        self.ignore_index = 255 if self.num_ids <= 255 else 65535
        self.confusion = np.zeros((self.num_ids, self.num_ids + 1), np.int64)
        self.counts, self.boundary_counts = ImageCounts(self.num_ids), ImageCounts(self.num_ids)
        self.calibration = Calibration() if config.calibration else None

    def add(self, source: Truth, item_id: str) -> None:
        """Add an image; one without a prediction counts as background. Raises BadData."""
        truth = source.read_mask(item_id)
        mask, confidence = self._read_prediction(truth.shape, item_id)
        _check_size(mask.shape, truth.shape, item_id)
        matrix = confusion_matrix(truth, mask, self.num_ids, ignore=self.ignore_index,
                                  ignored_prediction="skip" if self.config.ignore_predicted else "miss")
        self.confusion += matrix
        self.counts.add(count_pixels(matrix))
        if self.config.boundary:
            self.boundary_counts.add(count_boundary_pixels(truth, mask, self.num_ids, ignore=self.ignore_index,
                                                           share=self.config.boundary_width))
        if self.calibration is not None and confidence is not None:
            is_counted = (truth != self.ignore_index) & (mask != self.ignore_index)
            self.calibration.add(confidence[is_counted], truth[is_counted] == mask[is_counted])

    def export_counts(self) -> Counts:
        """Return the counts of all images so far."""
        counts = {"sum.image_matrix": self.confusion}
        for name, images in (("images", self.counts), ("boundaries", self.boundary_counts)):
            counts |= {f"all.{name}.{key}": values for key, values in images.export_counts().items()}
        return counts | ({} if self.calibration is None else {"sum.calibration": self.calibration.counts})

    def add_counts(self, counts: Counts) -> None:
        """Append exported counts of further images."""
        self.confusion += counts["sum.image_matrix"]
        for name, images in (("images", self.counts), ("boundaries", self.boundary_counts)):
            images.append_counts({key: counts[f"all.{name}.{key}"] for key in ("columns", "values", "lengths")})
        if self.calibration is not None:
            self.calibration.counts += counts["sum.calibration"]

    def _read_prediction(self, shape: tuple[int, ...], item_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (mask (H, W), confidence (H, W) or None) of an image."""
        if item_id not in self.run:
            return np.zeros(shape, np.uint8 if self.ignore_index == 255 else np.uint16), None
        if self.run.kind == "masks":
            item = self.run.item(item_id, exclude=() if self.config.calibration else ("confidence",))
            return extract_mask(item, self.num_ids - 1), _read_confidence(item.datasets.get("confidence"))
        item = self.run.item(item_id)
        size = read_image_size(item)
        mask = np.zeros(size, np.uint8 if self.ignore_index == 255 else np.uint16)
        confidence = np.zeros(size, np.float32) if self.config.calibration else None
        for band, rows, ids in resize_to_image_in_bands(item, self.num_ids - 1):
            mask[band] = build_prediction(rows, ids, self.background, self.ignore_index)
            if confidence is not None:
                # As `pseudo` stores it: the winning row where rows compete, max(1 - m, m) where a rule adds background.
                confidence[band] = (find_best_class(rows, ids, mask.dtype.type)[1] if self.background is None
                                    else compute_confidence(rows))
        return mask, confidence


@dataclass(frozen=True)
class RunCounter:
    """Counts a share of the images `ids` of a run; for other processes too, so it holds no counts.

    The counts have `sum.totals`, the numbers of `ImageTotals`, and `all.scored`, the positions of the images that were
    scored. With `each_image` they also have those of `DetailedScorer`, if no background score has to be found first.
    """

    config: EvalConfig
    run: Run
    truth: Truth
    ids: Sequence[str]
    training_images: frozenset[str] | None
    each_image: bool

    def __call__(self, positions: range, advance: Advance) -> Counts:
        """Return the counts of the images at `positions`. Raises BadData."""
        scorer, totals = Scorer(self.run, self.config), ImageTotals()
        detailed = (DetailedScorer(self.run, self.config, scorer.background)
                    if self.each_image and scorer.sweep is None else None)
        scored = []
        for position in positions:
            advance()
            item_id = self.ids[position]
            if not self.truth.has_mask(item_id):
                continue
            has_prediction = item_id in self.run
            totals.add(has_prediction=has_prediction, is_trained_on=item_id in (self.training_images or ()))
            if has_prediction or not self.config.skip_missing:
                scored.append(position)
                (scorer if detailed is None else detailed).add(self.truth, item_id)
        if detailed is not None:
            scorer.confusion.add_matrix(detailed.confusion)
        return {**scorer.export_counts(), **({} if detailed is None else detailed.export_counts()),
                "sum.totals": totals.export_counts(), "all.scored": np.array(scored, np.int64)}


@dataclass(frozen=True)
class ImageCounter:
    """Counts every image of a share of the images `ids` on its own, with a background score that is known."""

    config: EvalConfig
    run: Run
    truth: Truth
    ids: Sequence[str]
    background: Background

    def __call__(self, positions: range, advance: Advance) -> Counts:
        """Return the counts of `DetailedScorer` of the images at `positions`. Raises BadData."""
        scorer = DetailedScorer(self.run, self.config, self.background)
        for position in positions:
            advance()
            scorer.add(self.truth, self.ids[position])
        return scorer.export_counts()


@dataclass
class ImageTotals:
    """Numbers of images with ground truth, of those without a prediction, and of those that were trained on."""

    with_truth: int = 0
    missing: int = 0
    trained_on: int = 0

    def add(self, *, has_prediction: bool, is_trained_on: bool) -> None:
        """Count an image with ground truth."""
        self.with_truth += 1
        self.missing += not has_prediction
        self.trained_on += is_trained_on

    def export_counts(self) -> np.ndarray:
        """Return the three numbers."""
        return np.array([self.with_truth, self.missing, self.trained_on], np.int64)


def _read_confidence(stored: np.ndarray | None) -> np.ndarray | None:
    """Return a stored confidence in [0, 1]; those of 8 bits are fractions of 255."""
    if stored is None:
        return None
    return stored.astype(np.float32) / 255 if stored.dtype == np.uint8 else stored.astype(np.float32)


def _check_size(predicted: tuple[int, ...], expected: tuple[int, ...], item_id: str) -> None:
    if tuple(predicted) != tuple(expected):
        raise BadData(f"the prediction has the size {tuple(predicted)}, but the ground truth has {tuple(expected)}",
                      "Give the ground truth of these images, or make the run again", where=item_id)
