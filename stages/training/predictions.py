"""What a net in training said of the samples of the pass so far, what it counted, and the figures of earlier passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from stages.training.distributed import World

_LOGITS, _TARGETS = "predicted.logits", "predicted.targets"
_COUNTED, _TOTAL = "counted.", "total."


class Watch(Protocol):
    """Tells from a pass's predictions whether the training still makes sense."""

    def measure(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return figures of a pass for the log, from its logits (N, C) and targets (N, C) in {0, 1}."""

    def verdict(self, history: list[dict[str, float]], count: int) -> tuple[str, str]:
        """Return (what is wrong, what to do) after the last of the passes, of `count` samples; ("", "") if nothing."""


class Predictions:
    """Collects predictions and counts over the processes of a training; a checkpoint holds them for a resumed pass.

    `total` is what was counted in the passes before, in all processes.
    """

    def __init__(self, world: World) -> None:
        """Begin with nothing seen."""
        self.world = world
        self.history: list[dict[str, float]] = []
        self.total: dict[str, int] = {}
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._counted: dict[str, int] = {}

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Keep a batch: logits (B, C), and targets (B, C) in {0, 1}."""
        self._logits.append(logits.detach().float().cpu())
        self._targets.append(targets.detach().to("cpu", torch.uint8))

    def count(self, counted: Mapping[str, Tensor]) -> None:
        """Count on by whole numbers."""
        _add(self._counted, {name: int(value) for name, value in counted.items()})

    def counted(self) -> dict[str, int]:
        """Return what all processes counted in the pass so far. Every process must ask."""
        every: list[Any] = [self._counted]
        if self.world.size > 1:
            every = [None] * self.world.size
            distributed.all_gather_object(every, self._counted)
        found: dict[str, int] = {}
        for one in every:
            _add(found, one)
        return found

    def together(self) -> tuple[Tensor, Tensor] | None:
        """Return the pass so far of all processes, in the order of their ranks; None when there is nothing."""
        own = (torch.cat(self._logits), torch.cat(self._targets)) if self._logits else None
        every: list[Any] = [own]
        if self.world.size > 1:
            every = [None] * self.world.size
            distributed.all_gather_object(every, own)
        there = [one for one in every if one is not None]
        if not there:
            return None
        return torch.cat([logits for logits, _ in there]), torch.cat([targets for _, targets in there])

    def clear(self) -> None:
        """Forget the predictions of a pass that is over; its figures stay in `history`, its counts in `total`.

        Every process must call it.
        """
        _add(self.total, self.counted())
        self._logits, self._targets, self._counted = [], [], {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the pass so far, to be saved. Every process must ask."""
        found = self.together()
        seen = {} if found is None else {_LOGITS: found[0], _TARGETS: found[1]}
        numbers = {**{_COUNTED + name: value for name, value in self.counted().items()},
                   **{_TOTAL + name: value for name, value in self.total.items()}}
        return {**seen, **{name: torch.tensor(value) for name, value in numbers.items()}}

    def restore(self, tensors: dict[str, Tensor], history: list[dict[str, float]]) -> None:
        """Take over what was saved; the leading process takes everybody's predictions and counts."""
        self.history, self.total = history, _numbers(tensors, _TOTAL)
        if self.world.leads:
            self._counted = _numbers(tensors, _COUNTED)
        if _LOGITS in tensors and self.world.leads:
            self._logits, self._targets = [tensors[_LOGITS]], [tensors[_TARGETS]]


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _numbers(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(value) for name, value in tensors.items() if name.startswith(prefix)}
