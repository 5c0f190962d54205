"""Settings of `wsss train-cls`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class CamConfig(TrainingConfig):
    """Settings of `train-cls cam`: a multi-label classifier whose weights are its class activation maps."""

    long_side: tuple[int, ...] = setting((224, 400), "Resize the long side to a size drawn from this range.",
                                         unit="pixels", source="PSA: 256,512; IRN: 320,640")
    dropout: float = setting(0.0, "Drop whole channels before pooling.", low=0, high=0.95, source="PSA: 0.5")
