"""Settings of `wsss features`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import max_side_setting, setting


@dataclass(frozen=True)
class FeaturesConfig:
    """Settings of `features`."""

    layer: str = setting("", "Name of the layer whose maps or tokens are pooled; empty: those that the network pools "
                         "itself, or its last map.")
    pool: str = setting("auto", "Pooling: the class token after the final norm, or the mean over the patches or map "
                        "cells; auto: what the classifier of the network reads, or with --layer the mean.",
                        choices=("auto", "class-token", "mean"), source="Sub-category Teaching: class-token")
    size: int = setting(0, "Resize the image to a square of this side, ignoring its aspect ratio; 0: keep its size, "
                        "rounded up to whole patches.", low=0, unit="pixels", source="Sub-category Teaching: 224")
    mean: tuple[float, ...] = setting((), "Mean of each colour channel for normalising the image, in [0, 1]; empty: "
                                      "that of the network.", lengths=(0, 3))
    std: tuple[float, ...] = setting((), "Standard deviation of each colour channel; empty: that of the "
                                     "network.", lengths=(0, 3))
    max_side: int = max_side_setting()
    batch_size: int = setting(8, "Number of images of equal size in a batch; fewer if they are larger than 640 x 480 "
                              "pixels.", low=1)
    shard_size: int = setting(4096, "Number of images in a shard.", low=1)
    precision: str = setting("fp32", "Floating-point precision of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads of each worker.", low=1)
