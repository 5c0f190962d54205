"""Settings that all `train-*` commands share, with the same names everywhere. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.settings import max_side_setting, setting


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the training loop itself, whatever is trained."""

    epochs: int = setting(8, "Number of passes over the images.", low=1)
    batch_size: int = setting(16, "Images per batch, in each process.", low=1)
    accumulate: int = setting(1, "Batches whose gradients are accumulated into one optimiser step.", low=1)
    lr: float = setting(0.03, "Learning rate of the backbone.", low=0, high=1000)
    bias_lr_factor: float = setting(1.0, "Factor on the learning rate of biases; any value but 1 also exempts them "
                                    "from weight decay.", low=0, source="PSA, DeepLab: 2")
    optimizer: str = setting("sgd", "Optimiser.", choices=("sgd", "adamw"))
    momentum: float = setting(0.9, "Momentum of SGD. The released code of PSA and IRN has 0, by mistake.", low=0,
                              high=1)
    weight_decay: float = setting(1e-4, "Weight decay.", low=0, source="IRN")
    decay: str = setting("all", "Parameters with weight decay: all, or matrices (kernels and matrices, but no biases, "
                         "norms, tokens and position embeddings).", choices=("all", "matrices"),
                         source="DeiT: matrices")
    schedule: str = setting("poly", "Learning rate schedule: poly, (1 - step / steps) ^ 0.9; cosine, a half wave from "
                            "--lr down to --lr-floor; or constant.", choices=("poly", "cosine", "constant"))
    lr_floor: float = setting(0.0, "Learning rate at the end of the cosine schedule.", low=0, high=1000,
                              source="MCTformer: 1e-5")
    warmup: int = setting(0, "Warm-up: steps over which the learning rate rises to --lr.", low=0)
    average: float = setting(0.0, "Save a running average of the weights, with this decay; 0 saves the last weights.",
                             low=0, high=0.99999)
    max_side: int = max_side_setting()
    seed: int = setting(0, "Seed of the image order, the augmentation and new layers.", low=0)
    precision: str = setting("auto", "Floating-point format; auto is bf16 (fp16 on older GPUs) on CUDA and fp32 on a "
                             "CPU.", choices=("auto", "fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device: auto, cpu, cuda or cuda:N.")
    threads: int = setting(0, "CPU threads; 0 uses all cores, divided among the processes on this machine.", low=0)

    @property
    def max_gradient_norm(self) -> float:
        """The norm to which gradients are clipped; 0 does not clip them."""
        return 0.0


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """Settings shared by the trainings of a backbone on images and their labels."""

    net: str = setting("torchvision:mobilenet_v2", "Network, as [timm:|torchvision:|wsss:]NAME.")
    mean: tuple[float, ...] = setting((), "Mean of the input, in [0, 1]; empty takes that of the initial weights.",
                                      lengths=(0, 3))
    std: tuple[float, ...] = setting((), "Standard deviation of the input; empty takes that of the initial weights.",
                                     lengths=(0, 3))
    stride: int = setting(0, "Output stride of the backbone: a smaller one gives finer maps and takes more time and "
                          "memory; 0 keeps the network's own.", low=0, high=64)
    freeze: str = setting("", "Freeze the backbone up to and including this block (its name, or a number of blocks).")
    freeze_bn: str = setting("statistics", "Batch normalisation of the backbone: train it (no), freeze its statistics, "
                             "or freeze its weights too (all).", choices=("no", "statistics", "all"))
    head_lr_factor: float = setting(10.0, "Factor on --lr for new layers.", low=0, source="PSA, IRN")
    clip: float = setting(0.0, "Clip gradients to this norm; 0 does not clip them.", low=0)
    crop_size: int = setting(257, "Side of the square crops that the network is trained on.", low=16, unit="pixels")
    colour_jitter: tuple[float, ...] = setting((0.3, 0.3, 0.3, 0.1), "Strength of random changes of brightness, "
                                               "contrast, saturation and hue; empty makes none.", source="PSA",
                                               lengths=(0, 4))
    flip: bool = setting(True, "Mirror a random half of the images.")

    @property
    def max_gradient_norm(self) -> float:
        """The norm to which gradients are clipped; 0 does not clip them."""
        return self.clip

    @property
    def view(self) -> dict[str, Any]:
        """The settings that the view settings of all trainings share (see `stages.data.augment`)."""
        jitter = self.colour_jitter or (0.0, 0.0, 0.0, 0.0)
        return {"crop": self.crop_size, "flip": 0.5 if self.flip else 0.0,
                **dict(zip(("brightness", "contrast", "saturation", "hue"), jitter, strict=True))}
