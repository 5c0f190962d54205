"""Settings of `wsss bank`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import max_side_setting, setting


@dataclass(frozen=True)
class BankConfig:
    """Settings of `bank`."""

    erosion: int = setting(20, "Leave out the pixels of a class within this distance of another class, where masks are "
                           "least certain.", low=0, high=1000, unit="pixels", source="ModuSeg's code: 20")
    min_area: int = setting(300, "Leave out a class with fewer pixels than this after --erosion.", low=1, unit="pixels",
                            source="ModuSeg's code: 300")
    mean: tuple[float, ...] = setting((), "Mean of each colour channel for normalising the image, in [0, 1]; empty: "
                                      "that of the network. `segment retrieve` takes the same.", lengths=(0, 3))
    std: tuple[float, ...] = setting((), "Standard deviation of each colour channel; empty: that of the network.",
                                     lengths=(0, 3))
    max_side: int = max_side_setting(note="--erosion and --min-area are in pixels of the reduced image.")
    batch_size: int = setting(4, "Number of images of equal size in a batch; fewer if they are larger than 640 x 480 "
                              "pixels.", low=1)
    shard_size: int = setting(4096, "Number of images in a shard.", low=1)
    precision: str = setting("fp32", "Floating-point precision of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads of each worker.", low=1)
