"""Settings of `wsss refine`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting

BACKGROUNDS = {"irn": "constant:0.3", "psa": "power:4", "clip-es": "power:1", "deeplab": "constant:0.3",
               "mctformer": "constant:0.3"}


@dataclass(frozen=True)
class CrfConfig:
    """Settings of `refine crf`; a value left at none is the preset's."""

    preset: str = setting("irn", "Whose kernels and unary: irn takes labels, the others scores.",
                          choices=("irn", "psa", "clip-es", "deeplab", "mctformer"))
    background: str = setting("", "constant:V, power:A or from:EVAL.json, for the unary; empty: the preset's "
                              "(irn, deeplab, mctformer constant:0.3; psa power:4; clip-es power:1).")
    unary: str = setting("auto", "Hard labels, or scores as they are.", choices=("auto", "labels", "scores"))
    label_confidence: float = setting(0.7, "How far a hard label is trusted.", low=0.01, high=0.999, source="IRN")
    iterations: int = setting(10, "Steps of mean field.", low=1, high=1000)
    gaussian_sxy: float | None = setting(None, "Width of the smoothness kernel.", unit="pixels", low=0.1)
    gaussian_weight: float | None = setting(None, "Weight of the smoothness kernel.", low=0)
    bilateral_sxy: float | None = setting(None, "Width of the appearance kernel.", unit="pixels", low=0.1)
    bilateral_srgb: float | None = setting(None, "Width of the appearance kernel in colour.",
                                           unit="grey levels of 0..255", low=0.1)
    bilateral_weight: float | None = setting(None, "Weight of the appearance kernel.", low=0)
    as_released: bool = setting(False, "Give the CRF the image as CLIP-ES's released code does: BGR less a mean, "
                                "with negative values wrapped round to bright ones.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class IrnConfig:
    """Settings of `refine irn`."""

    beta: float = setting(10.0, "Power of the affinities.", low=0.01, high=1000, source="IRN")
    steps: int = setting(256, "Steps of the walk.", low=0, high=100000, source="IRN: 2^8")
    radius: int = setting(5, "Steps are shorter than this, whatever the net was trained with.", low=2, high=64,
                          unit="cells", source="IRN")
    flip: bool = setting(True, "Average the boundary with that of the mirror image.", source="IRN")
    batch_size: int = setting(1, "Images of one size that go through the network at once.", low=1)
    precision: str = setting("fp32", "Of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class PsaConfig:
    """Settings of `refine psa`."""

    background: str = setting("power:16", "power:A or constant:V: a row that walks with the classes; none: the classes "
                              "walk alone, and a background is chosen later.", source="PSA; MCTformer: constant:0.39")
    beta: float = setting(8.0, "Power of the affinities.", low=0.01, high=1000, source="PSA")
    steps: int = setting(256, "Steps of the walk.", low=0, high=100000, source="PSA: 2^8; MCTformer: 2^6")
    batch_size: int = setting(1, "Images of one padded size that go through the network at once.", low=1)
    precision: str = setting("fp32", "Of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class PamrConfig:
    """Settings of `refine pamr`."""

    dilations: tuple[int, ...] = setting((1, 2, 4, 8, 12, 24), "Distances of the neighbours.", low=1, high=512,
                                         unit="cells of the grid", source="Araslanov and Roth")
    iterations: int = setting(10, "Rounds of averaging.", low=0, high=1000, source="Araslanov and Roth")
    softness: float = setting(0.1, "How far colours may lie apart, in deviations of the neighbours.", low=0.001,
                              high=100, source="Araslanov and Roth")
    grid_stride: int = setting(1, "Stride of the refined maps; 1: the size of the image.", low=1, high=64,
                               unit="pixels", source="Araslanov and Roth; TCL: 4")
    background: str = setting("none", "constant:V or power:A: a row that is refined with the classes; none: the "
                              "classes alone, and a background is chosen later.")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)
