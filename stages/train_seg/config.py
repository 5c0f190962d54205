"""Settings of `wsss train-seg`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class SegConfig(TrainingConfig):
    """Settings of `train-seg`."""

    head: str = setting("auto", "Segmentation head; auto is DeepLab-v2 for wsss:deeplabv2_resnet101, LargeFOV for "
                        "wsss:resnet38, else the light one. On another network, LargeFOV has the same two convolutions "
                        "with dilation 12 on that network's channels.",
                        choices=("auto", "deeplab-light", "deeplab-v2", "large-fov"))
    loss: str = setting("ce", "Loss: cross entropy (ce); balanced between background and classes; of confident pixels "
                        "only (confidence); or both.", choices=("ce", "balanced", "confidence", "balanced-confidence"))
    mu: float = setting(0.95, "Confidence below which a pixel is ignored, with --loss confidence or "
                        "balanced-confidence.", low=0, high=1, source="CLIP-ES eq. 9")
    scale_range: tuple[float, ...] = setting((0.5, 1.5), "Resize by a random factor in this range.", low=0.1,
                                             high=4, source="DeepLab-v2", lengths=(2,), ascending=True)
    scale_per: str = setting("image", "Draw that factor for each image, or once per batch.",
                             choices=("image", "batch"), source="MCTformer's code: batch")
    resize: str = setting("bicubic", "Interpolation of images: bicubic, or bilinear without antialiasing.",
                          choices=("bicubic", "bilinear"), source="MCTformer's code: bilinear")
    pad_place: str = setting("random", "Position in the crop of an image that is smaller: random, or in the top left "
                             "corner.", choices=("random", "corner"),
                             source="MCTformer's code: corner")
    pad_label: str = setting("ignore", "Label of the padding around such an image: ignored, or background.",
                             choices=("ignore", "background"), source="MCTformer's code: background")
    steps: int = setting(0, "Total number of optimiser steps; 0 trains for --epochs.", low=0,
                         source="DeepLab-v2: 20000")
    epochs: int = setting(12, "Number of passes over the images, when --steps is 0.", low=1)
    # --lr and --head-lr-factor: trained for 8 epochs on 353 photographs with true masks and scored on 118 others, 3e-4
    # and 7 gave 29.1 mIoU, 1e-4 and 20 gave 36.6, 1e-4 and 50 gave 53.9, 1e-4 and 100 gave 52.0.
    lr: float = setting(1e-4, "Learning rate of the backbone.", low=0, high=1000)
    head_lr_factor: float = setting(50.0, "Factor on --lr for new layers.", low=0, source="DeepLab-v2: 10")
    optimizer: str = setting("adamw", "Optimiser.", choices=("sgd", "adamw"))
    weight_decay: float = setting(0.01, "Weight decay.", low=0)
