"""Compares the predictions of a run with the ground truth, image by image, and adds up the counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stages.errors import BadData, UsageError
from stages.eval.config import EvalConfig
from stages.eval.image_counts import ImageCounts
from stages.eval.score import BackgroundSweep, ConfusionMatrix, build_prediction
from stages.flow.background import resolve_background
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


def _read_confidence(stored: np.ndarray | None) -> np.ndarray | None:
    """Return a stored confidence in [0, 1]; those of 8 bits are fractions of 255."""
    if stored is None:
        return None
    return stored.astype(np.float32) / 255 if stored.dtype == np.uint8 else stored.astype(np.float32)


def _check_size(predicted: tuple[int, ...], expected: tuple[int, ...], item_id: str) -> None:
    if tuple(predicted) != tuple(expected):
        raise BadData(f"the prediction has the size {tuple(predicted)}, but the ground truth has {tuple(expected)}",
                      "Give the ground truth of these images, or make the run again", where=item_id)
