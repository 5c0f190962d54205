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


@dataclass(frozen=True)
class IrnConfig(TrainingConfig):
    """Settings of `train-aff irn`: IRNet on labels from maps at two thresholds."""

    freeze: str = setting("", "Has no use here: the whole backbone is frozen.", choices=("",), source="IRN")
    freeze_bn: str = setting("all", "The whole backbone is frozen.", choices=("all",), source="IRN")
    epochs: int = setting(3, "Passes over the images.", low=1, source="IRN")
    batch_size: int = setting(16, "Images in a batch, in each process.", low=1, source="IRN: 32")
    lr: float = setting(0.1, "Learning rate of the branch of boundaries.", low=0, high=1000, source="IRN")
    head_lr_factor: float = setting(10.0, "Times --lr for the branch of displacements.", low=0, source="IRN")
    crop_size: int = setting(256, "Side of the square that the network sees, a multiple of the stride of its "
                             "boundaries.", low=16, unit="pixels", source="IRN: 512")
    scale_range: tuple[float, ...] = setting((0.5, 1.5), "Resize by a factor drawn from this range.", low=0.1,
                                             high=4, source="IRN", counts=(2,), ascending=True)
    colour_jitter: tuple[float, ...] = setting((), "Jitter of brightness, contrast, saturation, hue; empty for none.",
                                               source="IRN", counts=(0, 4))
    class_threshold: float = setting(0.3, "Where a map is above it, and the CRF agrees, a class is sure.", low=0,
                                     high=1, source="IRN")
    background_threshold: float = setting(0.05, "Where no map is above it, and the CRF agrees, the background is sure.",
                                          low=0, high=1, source="IRN")
    label_confidence: float = setting(0.7, "How far the CRF trusts a label.", low=0.01, high=0.999, source="IRN")
    radius: int = setting(10, "Pairs lie closer than this.", low=2, high=64, unit="cells", source="IRN")
