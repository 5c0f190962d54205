"""Settings that every `train-*` shares, spelled the same everywhere. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.settings import setting


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the loop itself, whatever is trained."""

    epochs: int = setting(8, "Passes over the images.", low=1)
    batch_size: int = setting(16, "Images in a batch, in each process.", low=1)
    accumulate: int = setting(1, "Batches that make one step.", low=1)
    lr: float = setting(0.03, "Learning rate of the backbone.", low=0, high=1000)
    bias_lr_factor: float = setting(1.0, "Times the rate of its weight for a bias, and no decay when not 1.",
                                    low=0, source="PSA, DeepLab: 2")
    optimizer: str = setting("sgd", "The optimiser.", choices=("sgd", "adamw"))
    momentum: float = setting(0.9, "Momentum of SGD. PSA's and IRN's released code has 0, by a slip.", low=0, high=1)
    weight_decay: float = setting(1e-4, "Weight decay.", low=0, source="IRN")
    decay: str = setting("all", "What decays: all, or kernels and matrices without biases, norms, tokens and "
                         "positions.", choices=("all", "matrices"), source="DeiT: matrices")
    schedule: str = setting("poly", "poly: (1 - step / steps) ^ 0.9; cosine: half a wave from --lr to --lr-floor; or "
                            "constant.", choices=("poly", "cosine", "constant"))
    lr_floor: float = setting(0.0, "Rate at which the cosine ends.", low=0, high=1000, source="MCTformer: 1e-5")
    warmup: int = setting(0, "Steps over which the rate rises from 0.", low=0)
    average: float = setting(0.0, "Keep a running average of the weights with this decay, and save it; 0: do not.",
                             low=0, high=0.99999)
    seed: int = setting(0, "Seed of order, augmentation and new layers.", low=0)
    precision: str = setting("auto", "auto is bf16 (fp16 on older cards) on CUDA and fp32 on a CPU.",
                             choices=("auto", "fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(0, "CPU threads; 0: all cores, divided among local processes.", low=0)

    @property
    def largest_gradient(self) -> float:
        """The norm that gradients are clipped to; 0: they are not."""
        return 0.0


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """Settings common to the trainings of a backbone on images and their labels."""

    net: str = setting("torchvision:mobilenet_v2", "The network, as [timm:|torchvision:|wsss:]NAME.")
    mean: tuple[float, ...] = setting((), "Mean of the input, in [0, 1]; empty: what the network's weights want.",
                                      counts=(0, 3))
    std: tuple[float, ...] = setting((), "Standard deviation of the input; empty as for --mean.", counts=(0, 3))
    stride: int = setting(0, "Output stride of the backbone; 0 is its own.", low=0, high=64)
    freeze: str = setting("", "Freeze the backbone up to and including this block (its name, or a count).")
    freeze_bn: str = setting("statistics", "Of the backbone's batch normalisation, keep fixed the statistics, or all.",
                             choices=("no", "statistics", "all"))
    head_lr_factor: float = setting(10.0, "Times --lr for layers that start anew.", low=0, source="PSA, IRN")
    clip: float = setting(0.0, "Clip the gradient to this norm; 0: do not.", low=0)
    crop_size: int = setting(257, "Side of the square that the network sees.", low=16, unit="pixels")
    colour_jitter: tuple[float, ...] = setting((0.3, 0.3, 0.3, 0.1), "Jitter of brightness, contrast, saturation, "
                                               "hue; empty for none.", source="PSA", counts=(0, 4))
    flip: bool = setting(True, "Mirror half of the images.")

    @property
    def largest_gradient(self) -> float:
        """The norm that gradients are clipped to; 0: they are not."""
        return self.clip

    @property
    def view(self) -> dict[str, Any]:
        """What every view of an image (data.augment) takes from the settings."""
        jitter = self.colour_jitter or (0.0, 0.0, 0.0, 0.0)
        return {"crop": self.crop_size, "flip": 0.5 if self.flip else 0.0,
                **dict(zip(("brightness", "contrast", "saturation", "hue"), jitter, strict=True))}
