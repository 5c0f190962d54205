"""Settings of `wsss cams`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class CamsConfig:
    """Settings of every `cams` method."""

    tags: str = setting("index", "Classes to map: the index's tags, those predicted with T or more, or all.")
    batch_size: int = setting(4, "Images of equal size computed at once.", low=1)
    shard_size: int = setting(256, "Images in a shard.", low=1)
    precision: str = setting("fp32", "Arithmetic of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class CnnConfig(CamsConfig):
    """Settings of `cams cnn`."""

    scales: tuple[float, ...] = setting((0.5, 1.0, 1.5, 2.0), "Sizes of the image, summed.", low=0.05, high=8,
                                        source="IRN")
    flip: bool = setting(True, "Add the mirrored image at each scale.", source="IRN")
    grid_stride: int = setting(4, "Stride of the map that is stored.", low=1, high=64, unit="pixels", source="IRN")
    alignment: str = setting("centres", "Where a cell lies: centred where its receptive field is, or spread "
                             "over the whole image as IRN has it.", choices=("centres", "cells"))
