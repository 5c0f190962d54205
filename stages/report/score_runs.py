"""Scores several runs image by image: against the ground truth, and against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np

from stages.errors import BadData
from stages.kernels.threshold_sweep import ThresholdSweep
from stages.report.score_images import RunScore, compute_disagreement

THRESHOLDS = tuple(round(step / 100, 2) for step in range(100))  # those of `wsss eval`


class Reader(Protocol):
    """Reads the masks and CAMs of a run; see `stages.flow.compared_runs`."""

    kind: str
    title: str
    can_read_masks: bool

    def find_problem(self, item_id: str) -> str:
        """Return why the run has nothing of an image; empty if it has."""

    def read_scores(self, item_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return class ids (K,) and scores (K,) of the CAMs."""

    def iterate_best_classes(self, item_id: str,
                             size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, best class ids (h, W), their scores (h, W)) of the CAMs."""

    def read_prediction(self, item_id: str, size: tuple[int, int]) -> np.ndarray:
        """Return the mask (H, W)."""


class Truth(Protocol):
    """Ground-truth masks by id."""

    def has_truth(self, item_id: str) -> bool:
        """Return whether there is a ground-truth mask of an image."""

    def read_truth(self, item_id: str) -> np.ndarray:
        """Return the ground truth (H, W). Raises BadData."""

    def read_size(self, item_id: str) -> tuple[int, int]:
        """Return the size (H, W) of an image. Raises BadData."""


def sweep_thresholds(reader: Reader, truth: Truth, ids: Sequence[str], num_classes: int, ignore_index: int,
                     advance: Callable[[], None]) -> np.ndarray:
    """Return the mean IoU (T,) of CAMs without a background at THRESHOLDS; NaN without any pixel that counts.

    `ids` are the images with ground truth; `advance` is called after each.
    """
    sweep = ThresholdSweep(num_classes, THRESHOLDS, ignore=ignore_index)
    for item_id in ids:
        mask = read_truth_if_valid(truth, item_id)[0]
        if mask is not None:
            _add_to_sweep(sweep, reader, item_id, mask)
        advance()
    return sweep.mean_iou()


def _add_to_sweep(sweep: ThresholdSweep, reader: Reader, item_id: str, mask: np.ndarray) -> None:
    if reader.find_problem(item_id):
        sweep.update(np.zeros_like(mask), np.zeros(mask.shape, np.float32), mask)
        return
    for band, best_ids, best in reader.iterate_best_classes(item_id, (mask.shape[0], mask.shape[1])):
        sweep.update(best_ids, best, mask[band])


def read_truth_if_valid(truth: Truth, item_id: str) -> tuple[np.ndarray | None, str]:
    """Return the ground truth (H, W) of an image, None if there is none or it cannot be read, and the reason or ""."""
    try:
        return (truth.read_truth(item_id), "") if truth.has_truth(item_id) else (None, "")
    except BadData as error:
        return None, str(error)


class RunScores:
    """The scores of all runs: with the ground truth, between each two runs, and the best class score of CAMs."""

    def __init__(self, readers: Sequence[Reader], truth: Truth, num_classes: int, ignore_index: int, *,
                 has_background: bool, has_comparable_truth: bool) -> None:
        """Start without images."""
        self.readers, self._truth = readers, truth
        self._num_classes, self._ignore_index = num_classes, ignore_index
        self._has_comparable_truth = has_comparable_truth
        self.compared = [position for position, reader in enumerate(readers) if reader.can_read_masks]
        self.scores = {position: RunScore(num_classes, ignore_index, has_background=has_background)
                       for position in self.compared} if has_comparable_truth else {}
        self.disagreements: dict[tuple[int, int], dict[str, float | None]] = {
            pair: {} for pair in combinations(self.compared, 2)}
        self.best_scores: dict[str, float | None] = {}
        self.problems: dict[str, str] = {}
        self.num_with_truth = 0

    def add(self, item_id: str) -> None:
        """Add an image. Ground truth that cannot be read becomes a problem of the image."""
        self._add_best_score(item_id)
        mask = self._read_truth(item_id)
        if mask is None and not self.disagreements:
            return
        try:
            size = self._truth.read_size(item_id) if mask is None else (mask.shape[0], mask.shape[1])
        except BadData as error:
            self.problems[item_id] = str(error)
            return
        masks = {position: self.readers[position].read_prediction(item_id, size) for position in self.compared}
        if mask is not None:
            self.num_with_truth += 1
            for position, score in self.scores.items():
                score.add(item_id, mask, masks[position])
        for (first, second), values in self.disagreements.items():
            if not (self.readers[first].find_problem(item_id) or self.readers[second].find_problem(item_id)):
                values[item_id] = compute_disagreement(masks[first], masks[second], self._num_classes,
                                                       self._ignore_index)

    def _read_truth(self, item_id: str) -> np.ndarray | None:
        if not self._has_comparable_truth:
            return None
        mask, problem = read_truth_if_valid(self._truth, item_id)
        if problem:
            self.problems[item_id] = problem
        return mask

    def _add_best_score(self, item_id: str) -> None:
        """Note the highest score among the classes of the first run of CAMs."""
        reader = next((reader for reader in self.readers if reader.kind == "cams"), None)
        if reader is None or reader.find_problem(item_id):
            return
        scores = reader.read_scores(item_id)[1]
        if scores is not None and len(scores) and np.isfinite(scores).all():
            self.best_scores[item_id] = float(scores.max())
