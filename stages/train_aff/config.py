"""Settings of `wsss train-aff`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class PsaConfig(TrainingConfig):
    """Settings of `train-aff psa`: AffinityNet on labels from maps at two backgrounds."""

    epochs: int = setting(8, "Passes over the images.", low=1, source="PSA")
    batch_size: int = setting(8, "Images in a batch, in each process.", low=1, source="PSA")
    # With PSA's SGD (0.1, or MCTformer's 0.01) a frozen MobileNet-v2's walks were no better than its raw features'.
    optimizer: str = setting("adamw", "The optimiser.", choices=("sgd", "adamw"), source="PSA: sgd")
    lr: float = setting(1e-4, "Learning rate of the backbone.", low=0, high=1000, source="PSA: 0.1; MCTformer: 0.01")
    head_lr_factor: float = setting(20.0, "Times --lr for layers that start anew.", low=0, source="PSA: 10")
    weight_decay: float = setting(0.01, "Weight decay.", low=0, source="PSA: 5e-4")
    crop_size: int = setting(256, "Side of the square that the network sees, a multiple of its stride.", low=16,
                             unit="pixels", source="PSA: 448")
    low_alpha: float = setting(4.0, "Background (1 - max map)^alpha for what is surely a class.", low=0.01,
                               source="PSA")
    high_alpha: float = setting(32.0, "Background (1 - max map)^alpha for what is surely background.", low=0.01,
                                source="PSA's code; its paper: 24")
    radius: int = setting(5, "Pairs lie closer than this.", low=2, high=64, unit="cells", source="PSA")
