"""Settings of `wsss segment`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class NetConfig:
    """Settings of `segment net`."""

    scales: tuple[float, ...] = setting((1.0,), "Sizes of the image, fused.", low=0.05, high=8,
                                        source="DeepLab-v2: 0.5,0.75,1.0")
    flip: bool = setting(True, "Add the mirrored image at each scale.")
    fusion: str = setting("mean", "Mean or maximum of the probabilities.", choices=("mean", "max"))
    grid_stride: int = setting(4, "Stride of the fused scores.", low=1, high=64, unit="pixels")
    crf: str = setting("", "Refine by dense CRF with this preset's kernels; empty: do not.",
                       choices=("", "irn", "psa", "clip-es", "deeplab"))
    batch_size: int = setting(4, "Images of equal size computed at once.", low=1)
    shard_size: int = setting(256, "Images in a shard.", low=1)
    precision: str = setting("fp32", "Arithmetic of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)
