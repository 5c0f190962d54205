"""Settings of `wsss train-aff`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import crf_engine_setting, setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class PsaConfig(TrainingConfig):
    """Settings of `train-aff psa`: AffinityNet on labels from CAMs at two background levels."""

    epochs: int = setting(8, "Number of passes over the images.", low=1, source="PSA")
    batch_size: int = setting(8, "Number of images per batch, in each process.", low=1, source="PSA")
    # With PSA's SGD (0.1, or MCTformer's 0.01) random walks of a frozen MobileNet-v2 were no better than with its
    # untrained features.
    optimizer: str = setting("adamw", "Optimiser of the training.", choices=("sgd", "adamw"), source="PSA: sgd")
    lr: float = setting(1e-4, "Learning rate of the backbone.", low=0, high=1000, source="PSA: 0.1; MCTformer: 0.01")
    head_lr_factor: float = setting(20.0, "Factor on --lr for newly initialised layers.", low=0, source="PSA: 10")
    weight_decay: float = setting(0.01, "Weight decay of the optimiser.", low=0, source="PSA: 5e-4")
    crop_size: int = setting(256, "Side of the square crops for training, a multiple of the network's stride.", low=16,
                             unit="pixels", source="PSA: 448")
    low_alpha: float = setting(4.0, "Exponent of the background score (1 - max CAM)^alpha when confident class pixels "
                               "are selected. Smaller values select fewer of them.", low=0.01, source="PSA")
    high_alpha: float = setting(32.0, "Exponent of the background score (1 - max CAM)^alpha when confident background "
                                "pixels are selected. Larger values select fewer of them.", low=0.01,
                                source="PSA's code; its paper: 24")
    radius: int = setting(5, "Distance below which two cells form a pair. Larger values give more pairs and need more "
                          "memory.", low=2, high=64, unit="cells", source="PSA")
    engine: str = crf_engine_setting()


@dataclass(frozen=True)
class IrnConfig(TrainingConfig):
    """Settings of `train-aff irn`: IRNet on labels from CAMs at two thresholds."""

    freeze: str = setting("", "Not supported here: the whole backbone is frozen.", choices=("",), source="IRN")
    freeze_bn: str = setting("all", "The batch normalisation of the whole backbone is frozen.", choices=("all",),
                             source="IRN")
    epochs: int = setting(3, "Number of passes over the images.", low=1, source="IRN")
    batch_size: int = setting(16, "Number of images per batch, in each process.", low=1, source="IRN: 32")
    lr: float = setting(0.1, "Learning rate of the boundary branch.", low=0, high=1000, source="IRN")
    head_lr_factor: float = setting(10.0, "Factor on --lr for the displacement branch.", low=0, source="IRN")
    crop_size: int = setting(256, "Side of the square crops for training, a multiple of the stride of the boundaries.",
                             low=16, unit="pixels", source="IRN: 512")
    scale_range: tuple[float, ...] = setting((0.5, 1.5), "Range from which the factor for resizing the image is drawn.",
                                             low=0.1, high=4, source="IRN", lengths=(2,), ascending=True)
    colour_jitter: tuple[float, ...] = setting((), "Random jitter of brightness, contrast, saturation and hue; empty "
                                               "for none.", source="IRN", lengths=(0, 4))
    class_threshold: float = setting(0.3, "A pixel whose CAM is above this value is labelled with the class if the CRF "
                                     "agrees. Larger values label fewer class pixels.", low=0, high=1, source="IRN")
    background_threshold: float = setting(0.05, "A pixel whose CAMs are all below this value is labelled as background "
                                          "if the CRF agrees. Smaller values label fewer background pixels.", low=0,
                                          high=1, source="IRN")
    label_confidence: float = setting(0.7, "Probability that a label given to the CRF is correct. Lower values let the "
                                      "CRF change more labels.", low=0.01, high=0.999, source="IRN")
    radius: int = setting(10, "Distance below which two cells form a pair. Larger values give more pairs and need more "
                          "memory.", low=2, high=64, unit="cells", source="IRN")
    engine: str = crf_engine_setting()
