"""Settings of `wsss segment`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

from stages.errors import UsageError
from stages.settings import setting


@dataclass(frozen=True)
class NetConfig:
    """Settings of `segment net`."""

    scales: tuple[float, ...] = setting((1.0,), "Sizes of the image, fused.", low=0.05, high=8,
                                        source="DeepLab-v2: 0.5,0.75,1.0")
    resize: str = setting("bicubic", "How the image comes to those sizes: bicubic, smoothed, or corners: bilinear "
                          "with the corner pixels kept in place, not smoothed, and sizes cut to whole pixels.",
                          choices=("bicubic", "corners"), source="MCTformer's code: corners")
    flip: bool = setting(True, "Add the mirrored image at each scale.")
    fusion: str = setting("mean", "Mean or maximum of the probabilities.", choices=("mean", "max"))
    grid_stride: int = setting(4, "Stride of the fused scores.", low=1, high=64, unit="pixels")
    crf: str = setting("", "Refine by dense CRF with this preset's kernels; empty: do not.",
                       choices=("", "irn", "psa", "clip-es", "deeplab", "mctformer"))
    batch_size: int = setting(4, "Images of equal size computed at once.", low=1)
    shard_size: int = setting(256, "Images in a shard.", low=1)
    precision: str = setting("fp32", "Arithmetic of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class Protocol:
    """How a family of papers shows images to CLIP and scores them; every value is a setting that can be overridden."""

    names: str
    template: str
    statistics: str
    short_side: int
    window: int
    stride: int
    score: str
    scale: float
    shift: float
    background: str
    threshold: float
    threshold_pamr: float
    dilations: tuple[int, ...]
    blend: str


# SCLIP's evaluation (also ClearCLIP's, NACLIP's and ProxyCLIP's, with other thresholds), and TCL's, which the thesis of
# CoDe follows.
PROTOCOLS = {
    "sclip": Protocol("auto", "imagenet", "clip", 336, 224, 112, "softmax", 40.0, 0.0, "both", 0.1, 0.1, (8, 16),
                      "cosines"),
    "tcl": Protocol("none", "tcl", "imagenet", 448, 448, 224, "sigmoid", 10.0, -2.5, "threshold", 0.5, 0.4,
                    (1, 2, 4, 8, 12, 24), "scores")}


# Where the evaluation of SCLIP and NACLIP has another short side: by the preset of the classes' words.
SHORT_SIDES = {"sclip-cityscapes": 560, "sclip-stuff": 448}


@dataclass(frozen=True)
class WordsConfig:
    """Settings of every method that compares images with words; what is empty or none is the protocol's."""

    protocol: str = setting("sclip", "Whose evaluation the values below are from: SCLIP's, or TCL's and CoDe's.",
                            choices=tuple(PROTOCOLS))
    names: str = setting("", "Without --words: a preset, auto, none (the raw names), wordnet or a FILE.toml; auto is "
                         "the preset that knows all classes, else the raw names.", source="sclip: auto; tcl: none")
    template: str = setting("", "The prompt; or imagenet (80 of them), tcl (9), or a file with one a line: their mean.",
                            source="sclip: imagenet; tcl: tcl")
    short_side: int | None = setting(None, "The image is resized to this short side.", low=16, high=8192,
                                     unit="pixels", source="sclip: 336, Cityscapes 560, COCO-Stuff 448; tcl: 448")
    long_side: int = setting(2048, "A long side beyond this is resized to it instead.", low=16, high=65536,
                             unit="pixels", source="MMSegmentation")
    smooth: bool = setting(False, "Smooth an image that is made less than half as large: for large photographs.",
                           source="MMSegmentation and the papers: no")
    window: int | None = setting(None, "Side of the windows in which the image is seen.", low=16, high=8192,
                                 unit="pixels", source="sclip: 224; tcl: 448")
    stride: int | None = setting(None, "Distance of the windows.", low=1, high=8192, unit="pixels",
                                 source="sclip: 112; tcl: 224")
    score: str = setting("", "Of cosines: softmax(scale x cosine) over all words, or sigmoid(scale x cosine + shift) "
                         "of each.", choices=("", "softmax", "sigmoid"), source="sclip: softmax; tcl: sigmoid")
    scale: float | None = setting(None, "Factor of the cosines.", low=0.01, high=10000, source="sclip: 40 "
                                 "(SCLIP's code 65 on VOC, 50 on Context and COCO-Object); tcl: 10")
    background: str = setting("", "Who is the background's rival: words, a threshold, both, or nobody.",
                              choices=("", "words", "threshold", "both", "none"), source="sclip: both; tcl: threshold")
    threshold: float | None = setting(None, "Where no class reaches this it is background.", low=0, high=1,
                                      source="sclip: 0.1; tcl: 0.5, with --pamr 0.4")
    area_threshold: float = setting(0.0, "A class that is likeliest at no more than this share of the pixels at which "
                                    "any is but the background is not in the image; 0: each may be.", low=0, high=1,
                                    source="SCLIP's code: on VOC 0.1, elsewhere 0")
    pamr: bool = setting(False, "Refine by the image's colours (PAMR).", source="Araslanov and Roth; NACLIP, TCL: yes")
    dilations: tuple[int, ...] = setting((), "Distances of PAMR's neighbours.", low=1, high=512,
                                         source="sclip: 8,16; tcl: 1,2,4,8,12,24")
    iterations: int = setting(10, "Rounds of PAMR.", low=0, high=1000, source="Araslanov and Roth")
    blend: str = setting("", "What is averaged over windows: cosines (PAMR refines their mean), or scores (PAMR "
                         "refines each window's at stride 4).", choices=("", "cosines", "scores"),
                         source="sclip: cosines; tcl: scores")
    grid_stride: int = setting(0, "Stride of the scores; 0: 1, for images of more than a megapixel what makes it less.",
                               low=0, high=64, unit="pixels")
    batch_size: int = setting(16, "Windows of an image computed at once.", low=1)
    shard_size: int = setting(256, "Images in a shard.", low=1)
    precision: str = setting("fp32", "Arithmetic of all blocks but the last, which is fp32.",
                             choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class TextConfig(WordsConfig):
    """Settings of every method that compares the patches of a frozen CLIP with words."""

    statistics: str = setting("", "Mean and deviation of the input: the model's own, or ImageNet's.",
                              choices=("", "clip", "imagenet"), source="sclip: clip; tcl: imagenet")
    shift: float | None = setting(None, "Added to the scaled cosine.", low=-100, high=100, source="tcl: -2.5")
    as_released: bool = setting(False, "As the released code: positions are read up to a tenth of a patch beside their "
                                "places, and background words that are also classes stay.")


@dataclass(frozen=True)
class GroundedConfig(WordsConfig):
    """Settings of `segment tcl` and `segment code`: a net of `train-text`, with the masks that it has learnt."""

    protocol: str = setting("tcl", "Whose evaluation the values below are from: TCL's and CoDe's, or SCLIP's.",
                            choices=tuple(PROTOCOLS), source="CoDe, section 4.1")
    score: str = setting("", "sigmoid: the net's own masks, with the scale and shift that it has learnt; softmax(scale "
                         "x cosine) over all words in their place.", choices=("", "softmax", "sigmoid"),
                         source="tcl: sigmoid; sclip: softmax")
    scale: float | None = setting(None, "Factor of the cosines, for the softmax alone.", low=0.01, high=10000,
                                  source="sclip: 40")
    knowledge: float | None = setting(None, "Share of CLIP's own map in the masks, sigmoid(10 x (cosine - 0.25)).",
                                      low=0, high=1, source="TCL's and CoDe's code: 0.3 (the thesis takes TCL's "
                                      "evaluation and does not name it); with the softmax 0")
    pamr: bool = setting(True, "Refine by the image's colours (PAMR).", source="CoDe, section 3.5")
    blend: str = setting("", "What is averaged over windows: scores (PAMR refines the masks of each window at stride "
                         "4), or cosines, with the net's own score its masks (PAMR refines their mean).",
                         choices=("", "cosines", "scores"), source="tcl: scores; sclip: cosines")
    batch_size: int = setting(4, "Windows of an image computed at once.", low=1)
    precision: str = setting("fp32", "Arithmetic of the network.", choices=("fp32", "bf16", "fp16"))


@dataclass(frozen=True)
class MaskclipConfig(TextConfig):
    """Settings of `segment maskclip`."""

    whole_block: bool = setting(True, "Keep the residual path and the MLP of the last block.", source="TCL")


@dataclass(frozen=True)
class SclipConfig(TextConfig):
    """Settings of `segment sclip`."""

    whole_block: bool = setting(True, "Keep the residual path and the MLP of the last block.", source="SCLIP")


@dataclass(frozen=True)
class ClearclipConfig(TextConfig):
    """Settings of `segment clearclip`."""

    whole_block: bool = setting(False, "Keep the residual path and the MLP of the last block.", source="ClearCLIP")


@dataclass(frozen=True)
class NaclipConfig(TextConfig):
    """Settings of `segment naclip`."""

    whole_block: bool = setting(False, "Keep the residual path and the MLP of the last block.", source="NACLIP")
    deviation: float = setting(5.0, "Width of the neighbourhood that is preferred; 0: none is.", low=0, high=1000,
                               unit="patches", source="NACLIP")


@dataclass(frozen=True)
class ProxyclipConfig(TextConfig):
    """Settings of `segment proxyclip`."""

    beta: float = setting(1.2, "Similarities below so many times their mean are cut off.", low=0, high=100,
                          source="ProxyCLIP")
    gamma: float = setting(3.0, "Factor of the similarities before the softmax.", low=0.001, high=1000,
                           source="ProxyCLIP")


AnyWords = TypeVar("AnyWords", bound=WordsConfig)
_KNOWLEDGE = 0.3


def resolved(config: AnyWords) -> AnyWords:
    """Return the settings with the protocol's values for those that are empty or none.

    A net has its own scale where its score is the sigmoid; UsageError for one that is given, and for a share of
    CLIP's map where there are no masks to mix it into.
    """
    protocol = PROTOCOLS[config.protocol]
    empty = [field.name for field in fields(config) if getattr(config, field.name) in (None, "", ())]
    chosen = {name: getattr(protocol, name) for name in empty if hasattr(protocol, name)}
    if config.threshold is None:
        chosen["threshold"] = protocol.threshold_pamr if config.pamr else protocol.threshold
    if isinstance(config, GroundedConfig):
        chosen |= _of_masks(config, chosen.get("score", config.score))
    return replace(config, **chosen)


def _of_masks(config: GroundedConfig, score: str) -> dict[str, float | None]:
    """Return the scale and the knowledge that go with a net's score."""
    if score == "sigmoid":
        if config.scale is not None:
            raise UsageError(f"--scale {config.scale:g} is for --score softmax: the masks have the scale that the net "
                             "has learnt", "leave it out")
        return {"scale": None, "knowledge": _KNOWLEDGE if config.knowledge is None else config.knowledge}
    if config.knowledge:
        raise UsageError(f"--knowledge {config.knowledge:g} is for --score sigmoid: it is mixed into masks",
                         "leave it out")
    scale = PROTOCOLS["sclip"].scale if config.scale is None else config.scale
    return {"scale": scale, "knowledge": 0.0}
