"""A training of a few milliseconds a step: a small net with batch normalisation, dropout and random pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.flow.execution import Output, Silent, Stop
from stages.shards import provenance_entry
from stages.training.config import TrainingConfig
from stages.training.loop import Job, train

CONFIG = TrainingConfig(net="small", epochs=3, batch_size=2, lr=0.1, crop_size=16, device="cpu", precision="fp32",
                        threads=1, freeze_bn="no", average=0.5)


class Small(nn.Module):
    """Convolution, batch normalisation, dropout, pooling, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        return self.classifier(self.drop(torch.relu(self.norm(self.conv(images))).mean((2, 3))))


def loss(net: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the binary cross entropy, and a second value to be logged."""
    value = nn.functional.binary_cross_entropy_with_logits(net(batch["image"]), batch["labels"])
    return {"loss": value, "twice": 2 * value.detach()}


def draw(position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a picture that depends on position and generator."""
    image = generator.random((3, 8, 8), np.float32) + position
    return {"image": image, "labels": np.array([position % 2, 1], np.float32)}


class StopAfter(Silent):
    """Asks to stop after so many steps of this run."""

    def __init__(self, steps: int | None = None) -> None:
        self.stop, self.left, self.begun, self.lines = Stop(), steps, True, []

    def advance(self, count: int = 1) -> None:
        """Count down; the first count is of steps done before."""
        if self.left is not None and not self.begun:
            self.left -= count
            self.stop.requested = self.left <= 0
        self.begun = False

    def tell(self, text: str) -> None:
        """Keep the line."""
        self.lines.append(text)


def job_of(config: TrainingConfig, n_samples: int = 7, **more: Any) -> Job:
    """Return the job that belongs to settings."""
    torch.manual_seed(config.seed)
    net = Small()
    entry = provenance_entry("train", "", {"lr": config.lr, "seed": config.seed, "average": config.average}, {})
    return replace(Job(net, loss, draw, n_samples, list(net.classifier.parameters()), {"provenance": [entry]}),
                   **more)


def trained(path: Path, config: TrainingConfig = CONFIG, *, steps: int | None = None, job: Job | None = None,
            **how: Any) -> str:
    """Train, to the end or for so many steps, and return the sha256 of the net's file."""
    report = StopAfter(steps)
    train(job or job_of(config), config, Output(path, **how), ordinal="cpu", stop=report.stop, report=report)
    return hashlib.sha256(path.read_bytes()).hexdigest()
