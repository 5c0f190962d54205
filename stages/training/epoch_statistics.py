"""Accumulate predictions and counts over an epoch, across all ranks, and keep the metrics of earlier epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from stages.training.distributed import World

# Names of the tensors that a checkpoint holds.
_LOGITS, _TARGETS = "predicted.logits", "predicted.targets"
_EPOCH_COUNT_PREFIX, _TOTAL_COUNT_PREFIX = "counted.", "total."


class TrainingMonitor(Protocol):
    """Decide from the predictions of each epoch whether the training still works."""

    def compute_metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return an epoch's metrics for the log, from its logits (N, C) and targets (N, C) in {0, 1}."""

    def describe_problem(self, history: list[dict[str, float]], num_images: int) -> tuple[str, str]:
        """Return (problem, remedy) after the last epoch of `history`, of `num_images`; ("", "") if all is well."""


class EpochStatistics:
    """Collect predictions and counts of all processes of a training; a checkpoint stores those of a cut epoch.

    `history` has the metrics of each finished epoch, `total_counts` the counts of all finished epochs and processes.
    """

    def __init__(self, world: World) -> None:
        """Start with empty statistics."""
        self.world = world
        self.history: list[dict[str, float]] = []
        self.total_counts: dict[str, int] = {}
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._epoch_counts: dict[str, int] = {}

    def add_predictions(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, C), and targets (B, C) in {0, 1}."""
        self._logits.append(logits.detach().float().cpu())
        self._targets.append(targets.detach().to("cpu", torch.uint8))

    def add_counts(self, counts: Mapping[str, Tensor]) -> None:
        """Add integers, by name, to the counts of this epoch."""
        _add_counts(self._epoch_counts, {name: int(value) for name, value in counts.items()})

    def gather_counts(self) -> dict[str, int]:
        """Return the counts of this epoch so far, summed over all processes. Every process must call it."""
        counts_per_rank: list[Any] = [self._epoch_counts]
        if self.world.size > 1:
            counts_per_rank = [None] * self.world.size
            distributed.all_gather_object(counts_per_rank, self._epoch_counts)
        sums: dict[str, int] = {}
        for counts in counts_per_rank:
            _add_counts(sums, counts)
        return sums

    def gather_predictions(self) -> tuple[Tensor, Tensor] | None:
        """Return (logits, targets) of this epoch so far from all processes, in rank order; None when there are none.

        Every process must call it.
        """
        local = (torch.cat(self._logits), torch.cat(self._targets)) if self._logits else None
        predictions_per_rank: list[Any] = [local]
        if self.world.size > 1:
            predictions_per_rank = [None] * self.world.size
            distributed.all_gather_object(predictions_per_rank, local)
        predictions = [prediction for prediction in predictions_per_rank if prediction is not None]
        if not predictions:
            return None
        return torch.cat([logits for logits, _ in predictions]), torch.cat([targets for _, targets in predictions])

    def end_epoch(self) -> None:
        """Drop the predictions of this epoch and add its counts to `total_counts`. Every process must call it."""
        _add_counts(self.total_counts, self.gather_counts())
        self._logits, self._targets, self._epoch_counts = [], [], {}

    def gather_state(self) -> dict[str, Tensor]:
        """Return the statistics of this epoch so far, for a checkpoint. Every process must call it."""
        predictions = self.gather_predictions()
        state = {} if predictions is None else {_LOGITS: predictions[0], _TARGETS: predictions[1]}
        counts = {**{_EPOCH_COUNT_PREFIX + name: value for name, value in self.gather_counts().items()},
                  **{_TOTAL_COUNT_PREFIX + name: value for name, value in self.total_counts.items()}}
        return {**state, **{name: torch.tensor(value) for name, value in counts.items()}}

    def load_state(self, tensors: dict[str, Tensor], history: list[dict[str, float]]) -> None:
        """Load the statistics of a checkpoint; the main process takes the predictions and counts of all processes."""
        self.history, self.total_counts = history, _read_counts(tensors, _TOTAL_COUNT_PREFIX)
        if self.world.is_main_process:
            self._epoch_counts = _read_counts(tensors, _EPOCH_COUNT_PREFIX)
        if _LOGITS in tensors and self.world.is_main_process:
            self._logits, self._targets = [tensors[_LOGITS]], [tensors[_TARGETS]]


def _add_counts(sums: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, value in counts.items():
        sums[name] = sums.get(name, 0) + value


def _read_counts(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(value) for name, value in tensors.items() if name.startswith(prefix)}
