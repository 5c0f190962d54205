"""What a net in training said of the samples of the pass so far, and the figures of the passes before."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from stages.training.distributed import World

_LOGITS, _TARGETS = "predicted.logits", "predicted.targets"


class Watch(Protocol):
    """Tells from a pass's predictions whether the training still makes sense."""

    def measure(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return figures of a pass for the log, from its logits (N, C) and targets (N, C) in {0, 1}."""

    def verdict(self, history: list[dict[str, float]], count: int) -> tuple[str, str]:
        """Return (what is wrong, what to do) after the last of the passes, of `count` samples; ("", "") if nothing."""


class Predictions:
    """Collects predictions over the processes of a training; a checkpoint holds them, so a resumed pass is whole."""

    def __init__(self, world: World) -> None:
        """Begin with nothing seen."""
        self.world = world
        self.history: list[dict[str, float]] = []
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Keep a batch: logits (B, C), and targets (B, C) in {0, 1}."""
        self._logits.append(logits.detach().float().cpu())
        self._targets.append(targets.detach().to("cpu", torch.uint8))

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
        """Forget the predictions of a pass that is over; its figures stay in `history`."""
        self._logits, self._targets = [], []

    def tensors(self) -> dict[str, Tensor]:
        """Return the pass so far, to be saved. Every process must ask."""
        found = self.together()
        return {} if found is None else {_LOGITS: found[0], _TARGETS: found[1]}

    def restore(self, tensors: dict[str, Tensor], history: list[dict[str, float]]) -> None:
        """Take over what was saved; the leading process takes everybody's predictions."""
        self.history = history
        if _LOGITS in tensors and self.world.leads:
            self._logits, self._targets = [tensors[_LOGITS]], [tensors[_TARGETS]]
