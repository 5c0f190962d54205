"""Provide a training with steps of a few milliseconds: a small network and random images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.flow.execution import Output, SilentReport, Stop
from stages.shards import provenance_entry
from stages.training.config import TrainingConfig
from stages.training.loop import TrainingJob, train

CONFIG = TrainingConfig(net="small", epochs=3, batch_size=2, lr=0.1, crop_size=16, device="cpu", precision="fp32",
                        threads=1, freeze_bn="no", average=0.5)


class SmallNet(nn.Module):
    """A network of convolution, batch normalisation, pooling, dropout and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, 2)."""
        return self.classifier(self.drop(torch.relu(self.norm(self.conv(images))).mean((2, 3))))


def loss(net: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the binary cross entropy, and a second value to log."""
    value = nn.functional.binary_cross_entropy_with_logits(net(batch["image"]), batch["labels"])
    return {"loss": value, "twice": 2 * value.detach()}


def draw(position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a sample that depends on position and generator."""
    image = generator.random((3, 8, 8), np.float32) + position
    return {"image": image, "labels": np.array([position % 2, 1], np.float32)}


class StopAfter(SilentReport):
    """A report that records messages, and requests a stop after a number of steps."""

    def __init__(self, steps: int | None = None) -> None:
        self.stop, self.steps_left, self.messages = Stop(), steps, []

    def advance(self, count: int = 1, *, resumed: bool = False) -> None:
        """Count down, except for the steps done before."""
        if self.steps_left is not None and not resumed:
            self.steps_left -= count
            self.stop.requested = self.steps_left <= 0

    def info(self, text: str) -> None:
        """Record the message."""
        self.messages.append(text)


def build_job(config: TrainingConfig, num_samples: int = 7, **fields: Any) -> TrainingJob:
    """Return the training job of the settings, with other `fields`."""
    torch.manual_seed(config.seed)
    net = SmallNet()
    entry = provenance_entry("train", "", {"lr": config.lr, "seed": config.seed, "average": config.average}, {})
    job = TrainingJob(net, loss, draw, num_samples, list(net.classifier.parameters()), {"provenance": [entry]})
    return replace(job, **fields)


def run_training(path: Path, config: TrainingConfig = CONFIG, *, steps: int | None = None,
                 job: TrainingJob | None = None, **output_fields: Any) -> str:
    """Train to the end, or stop after `steps` (raising Stopped); return the sha256 of the network's file."""
    report, output = StopAfter(steps), Output(path, **output_fields)
    train(job or build_job(config), config, output, requested_device="cpu", stop=report.stop, report=report)
    return hashlib.sha256(path.read_bytes()).hexdigest()
