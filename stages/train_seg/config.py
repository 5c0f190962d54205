"""Settings of `wsss train-seg`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class SegConfig(TrainingConfig):
    """Settings of `train-seg`."""

    head: str = setting("auto", "The head; auto: DeepLab-v2 for wsss:deeplabv2_resnet101, LargeFOV for "
                        "wsss:resnet38, else the light one. LargeFOV on another network: the same two convolutions "
                        "with dilation 12 on its channels.",
                        choices=("auto", "deeplab-light", "deeplab-v2", "large-fov"))
    loss: str = setting("ce", "Cross entropy, balanced between background and classes, of confident pixels only, or "
                        "both.", choices=("ce", "balanced", "confidence", "balanced-confidence"))
    mu: float = setting(0.95, "Least confidence of a pixel that counts, where the loss is of confident pixels.", low=0,
                        high=1, source="CLIP-ES eq. 9")
    scale_range: tuple[float, ...] = setting((0.5, 1.5), "Resize by a factor drawn from this range.", low=0.1,
                                             high=4, source="DeepLab-v2", counts=(2,), ascending=True)
    scale_per: str = setting("image", "Draw that factor for every image, or once for all images of a batch.",
                             choices=("image", "batch"), source="MCTformer's code: batch")
    resize: str = setting("bicubic", "How images are resized: bicubic, or bilinear without smoothing.",
                          choices=("bicubic", "bilinear"), source="MCTformer's code: bilinear")
    pad_place: str = setting("random", "Where an image smaller than the crop lies in it: anywhere, or at the top left, "
                             "so that the right and the bottom are padded.", choices=("random", "corner"),
                             source="MCTformer's code: corner")
    pad_label: str = setting("ignore", "What the pixels beyond such an image count as: nothing, or background.",
                             choices=("ignore", "background"), source="MCTformer's code: background")
    steps: int = setting(0, "Steps in all; 0: as many as --epochs make.", low=0, source="DeepLab-v2: 20000")
    epochs: int = setting(12, "Passes over the images, where --steps is 0.", low=1)
    # On 353 photographs with true masks, 8 epochs, scored on 118 others: 29.1 mIoU at 3e-4 and 7, 36.6 at 1e-4 and 20,
    # 53.9 at 1e-4 and 50, 52.0 at 1e-4 and 100.
    lr: float = setting(1e-4, "Learning rate of the backbone.", low=0, high=1000)
    head_lr_factor: float = setting(50.0, "Times --lr for layers that start anew.", low=0, source="DeepLab-v2: 10")
    optimizer: str = setting("adamw", "The optimiser.", choices=("sgd", "adamw"))
    weight_decay: float = setting(0.01, "Weight decay.", low=0)
