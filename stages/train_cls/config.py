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


@dataclass(frozen=True)
class MixConfig(CamConfig):
    """Settings of every training on mixed samples."""

    lambda_ent: float = setting(0.02, "Weight of the self-entropy of the predictions.", low=0, source="Mixup-CAM")
    entropy: str = setting("binary", "Entropy of each class present or not, or -sum p log p.",
                           choices=("binary", "sum"), source="Mixup-CAM's code; its formula")
    lambda_con: float = setting(2e-4, "Weight of the concentration of the maps.", low=0, source="Mixup-CAM")
    concentration: str = setting("scops", "Its form: softmax over classes in coordinates from -1 to 1, or maps as they "
                                 "are in cells, which can overpower the classification.", choices=("scops", "paper"))


@dataclass(frozen=True)
class MixupConfig(MixConfig):
    """Settings of `train-cls mixup`."""

    alpha: float = setting(0.2, "lambda is drawn from Beta(alpha, alpha).", low=0.001, source="Mixup-CAM")


@dataclass(frozen=True)
class FmixConfig(MixConfig):
    """Settings of `train-cls fmix`."""

    alpha: float = setting(1.0, "lambda is drawn from Beta(alpha, alpha).", low=0.001, source="FMix")
    decay: float = setting(3.0, "Power by which the noise falls with its frequency.", low=0, source="FMix")
    fmix_spectrum: str = setting("paper", "The noise in two dimensions, or with the released code's slip: bands.",
                                 choices=("paper", "released"))


@dataclass(frozen=True)
class ManifoldConfig(MixConfig):
    """Settings of `train-cls manifold-mixup`."""

    alpha: float = setting(0.2, "lambda is drawn from Beta(alpha, alpha).", low=0.001, source="Manifold Mixup-CAM")
    mix_at: str = setting("", "Where to mix, drawn anew for each batch: comma list of input and blocks of the "
                          "backbone; empty: input and all blocks but the last.", source="Manifold Mixup")


@dataclass(frozen=True)
class SubcategoryConfig(CamConfig):
    """Settings of `train-cls subcategory`."""

    subcategory_weight: float = setting(1.0, "Weight of the loss of the sub-categories.", low=0,
                                        source="Sub-category Teaching; SC-CAM: 5")
