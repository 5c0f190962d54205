"""Settings of `wsss segment`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

from stages.errors import UsageError
from stages.settings import crf_engine_setting, max_side_setting, setting


@dataclass(frozen=True)
class NetConfig:
    """Settings of `segment net`."""

    scales: tuple[float, ...] = setting((1.0,), "Scales at which the image is segmented; their scores are fused.",
                                        low=0.05, high=8, source="DeepLab-v2: 0.5,0.75,1.0")
    resize: str = setting("bicubic", "How the image is resized to each scale. bicubic: with antialiasing; corners: "
                          "bilinear without antialiasing, with the corner pixels kept in place and sizes rounded down "
                          "to whole pixels.", choices=("bicubic", "corners"), source="MCTformer's code: corners")
    flip: bool = setting(True, "Also segment the mirrored image at each scale.")
    fusion: str = setting("mean", "Take the mean or the maximum of the probabilities over scales and mirrored images.",
                          choices=("mean", "max"))
    grid_stride: int = setting(4, "Stride of the fused scores; a larger stride is faster and coarser.", low=1, high=64,
                               unit="pixels")
    max_side: int = max_side_setting(note="The widths of the kernels of --crf are in pixels of the reduced image.")
    crf: str = setting("", "Refine the masks by a dense CRF with the kernels of this preset; empty: no CRF.",
                       choices=("", "irn", "psa", "clip-es", "deeplab", "mctformer"))
    engine: str = crf_engine_setting()
    batch_size: int = setting(4, "Number of images of equal size in a batch; fewer if they are larger than 640 x 480 "
                              "pixels.", low=1)
    shard_size: int = setting(256, "Number of images in a shard.", low=1)
    precision: str = setting("fp32", "Floating-point precision of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class Protocol:
    """The evaluation protocol of a family of papers; every value is the default of the setting of that name."""

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


# The evaluation of SCLIP (also used by ClearCLIP, NACLIP and ProxyCLIP, with other thresholds), and that of TCL, which
# the thesis of CoDe follows.
PROTOCOLS = {
    "sclip": Protocol("auto", "imagenet", "clip", 336, 224, 112, "softmax", 40.0, 0.0, "both", 0.1, 0.1, (8, 16),
                      "cosines"),
    "tcl": Protocol("none", "tcl", "imagenet", 448, 448, 224, "sigmoid", 10.0, -2.5, "threshold", 0.5, 0.4,
                    (1, 2, 4, 8, 12, 24), "scores"),
    "corrclip": Protocol("auto", "imagenet", "clip", 336, 336, 112, "softmax", 40.0, 0.0, "both", 0.2, 0.2, (8, 16),
                         "cosines")}


# Data sets for which the evaluation of SCLIP and NACLIP uses another short side, by the preset of their class words.
SHORT_SIDES = {"sclip-cityscapes": 560, "sclip-stuff": 448}


@dataclass(frozen=True)
class WordsConfig:
    """Settings of every method that compares images with words; empty strings and None take the protocol's value."""

    protocol: str = setting("sclip", "Evaluation protocol that sets the defaults of the options below: that of SCLIP, "
                            "or that of TCL and CoDe.", choices=tuple(PROTOCOLS))
    names: str = setting("", "Words for the classes when --words is not given: a preset, none (the class names as they "
                         "are), wordnet, a FILE.toml, or auto (the preset that covers all classes, else the class "
                         "names).", source="sclip: auto; tcl: none")
    template: str = setting("", "Prompt template; or a set of templates whose embeddings are averaged: imagenet (80), "
                            "tcl (9), or a file with one template per line.", source="sclip: imagenet; tcl: tcl")
    short_side: int | None = setting(None, "Resize the image so that its short side has this length.", low=16,
                                     high=8192, unit="pixels",
                                     source="sclip: 336, Cityscapes 560, COCO-Stuff 448; tcl: 448")
    long_side: int = setting(2048, "Maximum long side: an image that would be longer is resized to this instead.",
                             low=16, high=65536, unit="pixels", source="MMSegmentation")
    # Cityscapes' images have 2048 pixels, and the published evaluations resize them in one step.
    max_side: int = max_side_setting(2048)
    smooth: bool = setting(False, "Use antialiasing when the image shrinks to less than half its size; useful for "
                           "large photographs.", source="MMSegmentation and the papers: no")
    window: int | None = setting(None, "Side of the square windows that CLIP sees.", low=16, high=8192, unit="pixels",
                                 source="sclip: 224; tcl: 448")
    stride: int | None = setting(None, "Step from one window to the next; at most --window.", low=1, high=8192,
                                 unit="pixels", source="sclip: 112; tcl: 224")
    score: str = setting("", "How cosine similarities become scores. softmax: softmax(scale x cosine) over all words; "
                         "sigmoid: sigmoid(scale x cosine + shift) of each word.", choices=("", "softmax", "sigmoid"),
                         source="sclip: softmax; tcl: sigmoid")
    scale: float | None = setting(None, "Factor of the cosine similarities; a larger one gives sharper scores.",
                                  low=0.01, high=10000, source="sclip: 40 (SCLIP's code 65 on VOC, 50 on Context and "
                                  "COCO-Object); tcl: 10")
    background: str = setting("", "How background is decided: by background words, by --threshold, by both, or there "
                              "is none.", choices=("", "words", "threshold", "both", "none"),
                              source="sclip: both; tcl: threshold")
    threshold: float | None = setting(None, "Score below which a pixel is background; a larger threshold gives more "
                                      "background.", low=0, high=1, source="sclip: 0.1; tcl: 0.5, with --pamr 0.4")
    area_threshold: float = setting(0.0, "Drop classes that win at most this fraction of the foreground pixels; 0: "
                                    "keep all.", low=0, high=1, source="SCLIP's code: on VOC 0.1, elsewhere 0")
    pamr: bool = setting(False, "Refine the scores by the colours of the image (PAMR).",
                         source="Araslanov and Roth; NACLIP, TCL: yes")
    dilations: tuple[int, ...] = setting((), "Dilations of PAMR: how far its neighbour pixels are away.", low=1,
                                         high=512, source="sclip: 8,16; tcl: 1,2,4,8,12,24")
    iterations: int = setting(10, "Number of PAMR iterations.", low=0, high=1000, source="Araslanov and Roth")
    blend: str = setting("", "What is averaged over windows. cosines: PAMR refines their mean; scores: PAMR refines "
                         "the scores of each window at stride 4.", choices=("", "cosines", "scores"),
                         source="sclip: cosines; tcl: scores")
    grid_stride: int = setting(0, "Stride of the scores; 0 chooses: 1, or for images above one megapixel the smallest "
                               "stride that gives at most a million scores.", low=0, high=64, unit="pixels")
    batch_size: int = setting(16, "Number of windows of an image in a batch.", low=1)
    shard_size: int = setting(256, "Number of images in a shard.", low=1)
    precision: str = setting("fp32", "Floating-point precision of all blocks but the last, which is always fp32.",
                             choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads of each worker.", low=1)


@dataclass(frozen=True)
class TextConfig(WordsConfig):
    """Settings of every method that compares the patches of a frozen CLIP with words."""

    statistics: str = setting("", "Mean and standard deviation for normalising the image: those of CLIP, or of "
                              "ImageNet.", choices=("", "clip", "imagenet"), source="sclip: clip; tcl: imagenet")
    shift: float | None = setting(None, "Added to the scaled cosine before the sigmoid.", low=-100, high=100,
                                  source="tcl: -2.5")
    as_released: bool = setting(False, "Reproduce the released code: position embeddings are interpolated up to a "
                                "tenth of a patch off their places, and background words that are also class words "
                                "stay.")


@dataclass(frozen=True)
class GroundedConfig(WordsConfig):
    """Settings of `segment tcl` and `segment code`: a network of `train-text`, with the masks that it has learnt."""

    protocol: str = setting("tcl", "Evaluation protocol that sets the defaults of the options below: that of TCL and "
                            "CoDe, or that of SCLIP.", choices=tuple(PROTOCOLS), source="CoDe, section 4.1")
    score: str = setting("", "How scores are computed. sigmoid: the network's own masks, with the scale and shift that "
                         "it has learnt; softmax: softmax(scale x cosine) over all words instead.",
                         choices=("", "softmax", "sigmoid"), source="tcl: sigmoid; sclip: softmax")
    scale: float | None = setting(None, "Factor of the cosine similarities; for --score softmax only.", low=0.01,
                                  high=10000, source="sclip: 40")
    knowledge: float | None = setting(None, "Weight of CLIP's own map, sigmoid(10 x (cosine - 0.25)), in the masks.",
                                      low=0, high=1, source="TCL's and CoDe's code: 0.3 0 with "
                                      "--score softmax")
    pamr: bool = setting(True, "Refine the scores by the colours of the image (PAMR).", source="CoDe, section 3.5")
    blend: str = setting("", "What is averaged over windows. scores: PAMR refines the masks of each window at stride "
                         "4; cosines (with --score sigmoid, the masks): PAMR refines their mean.",
                         choices=("", "cosines", "scores"), source="tcl: scores; sclip: cosines")
    batch_size: int = setting(4, "Number of windows of an image in a batch.", low=1)
    precision: str = setting("fp32", "Floating-point precision of the network.", choices=("fp32", "bf16", "fp16"))


@dataclass(frozen=True)
class MaskclipConfig(TextConfig):
    """Settings of `segment maskclip`."""

    whole_block: bool = setting(True, "Keep the residual connection and the MLP of the last block.", source="TCL")


@dataclass(frozen=True)
class SclipConfig(TextConfig):
    """Settings of `segment sclip`."""

    whole_block: bool = setting(True, "Keep the residual connection and the MLP of the last block.", source="SCLIP")


@dataclass(frozen=True)
class ClearclipConfig(TextConfig):
    """Settings of `segment clearclip`."""

    whole_block: bool = setting(False, "Keep the residual connection and the MLP of the last block.",
                                source="ClearCLIP")


@dataclass(frozen=True)
class NaclipConfig(TextConfig):
    """Settings of `segment naclip`."""

    whole_block: bool = setting(False, "Keep the residual connection and the MLP of the last block.", source="NACLIP")
    deviation: float = setting(5.0, "Standard deviation of the Gaussian that favours nearby patches; 0: no Gaussian.",
                               low=0, high=1000, unit="patches", source="NACLIP")


@dataclass(frozen=True)
class ProxyclipConfig(TextConfig):
    """Settings of `segment proxyclip`."""

    beta: float = setting(1.2, "Mask out similarities below this multiple of their mean.", low=0, high=100,
                          source="ProxyCLIP")
    gamma: float = setting(3.0, "Factor of the similarities before the softmax; a larger one gives sharper attention.",
                           low=0.001, high=1000, source="ProxyCLIP")


@dataclass(frozen=True)
class CorrclipConfig(TextConfig):
    """Settings of `segment corrclip`."""

    protocol: str = setting("corrclip", "Evaluation protocol that sets the defaults of the options below.",
                            choices=tuple(PROTOCOLS))
    merge_distance: float = setting(0.2, "Join regions whose features are at most this much less similar than those of "
                                    "the most similar pair; 0 joins none that differ.", low=0, high=2,
                                    source="CorrCLIP")
    sharpness: float = setting(4.0, "Factor of the similarities before the softmax; a larger one gives sharper "
                               "attention.", low=0.001, high=1000, source="CorrCLIP's code: 4")
    spatial_weight: float = setting(1.0, "Weight of the features of the blocks in the middle.", low=0, high=100,
                                    source="CorrCLIP's code: 1")
    semantic_weight: float = setting(0.5, "Weight of the class tokens of the regions.", low=0, high=100,
                                     source="CorrCLIP's code: 0.5")
    vote: bool = setting(True, "Give each region the class that most of its pixels have.", source="CorrCLIP")


@dataclass(frozen=True)
class RetrieveConfig:
    """Settings of `segment retrieve`."""

    neighbours: int = setting(25, "Number of the most similar vectors of the bank that vote for the class of a region.",
                              low=1, high=10000, source="ModuSeg's code: 25")
    drop: float = setting(0.25, "Fraction of the vectors of each class but the background that is left out: those "
                          "farthest from the mean of the class.", low=0, high=0.99, source="ModuSeg's code: 0.25")
    min_area: int = setting(300, "Regions with fewer pixels than this become background.", low=1, unit="pixels",
                            source="ModuSeg's code: 300")
    max_side: int = max_side_setting(note="--min-area is in pixels of the reduced image.")
    batch_size: int = setting(4, "Number of images of equal size in a batch; fewer if they are larger than 640 x 480 "
                              "pixels.", low=1)
    shard_size: int = setting(256, "Number of images in a shard.", low=1)
    precision: str = setting("fp32", "Floating-point precision of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads of each worker.", low=1)


AnyWordsConfig = TypeVar("AnyWordsConfig", bound=WordsConfig)
_DEFAULT_KNOWLEDGE = 0.3


def apply_protocol(config: AnyWordsConfig) -> AnyWordsConfig:
    """Fill in the protocol's values for the settings that are empty or None.

    A network has its own scale if its score is the sigmoid. Raises UsageError for a scale that is set nevertheless,
    and for a weight of CLIP's own map if there are no masks to mix it into.
    """
    protocol = PROTOCOLS[config.protocol]
    unset = [field.name for field in fields(config) if getattr(config, field.name) in (None, "", ())]
    values = {name: getattr(protocol, name) for name in unset if hasattr(protocol, name)}
    if config.threshold is None:
        values["threshold"] = protocol.threshold_pamr if config.pamr else protocol.threshold
    if isinstance(config, GroundedConfig):
        values |= _resolve_scale_and_knowledge(config, values.get("score", config.score))
    return replace(config, **values)


def _resolve_scale_and_knowledge(config: GroundedConfig, score: str) -> dict[str, float | None]:
    """Return the values of `scale` and `knowledge` that go with a network's score."""
    if score == "sigmoid":
        if config.scale is not None:
            raise UsageError(f"--scale {config.scale:g} is for --score softmax only: the masks use the scale that the "
                             "network has learnt", "Remove --scale, or add --score softmax")
        return {"scale": None, "knowledge": _DEFAULT_KNOWLEDGE if config.knowledge is None else config.knowledge}
    if config.knowledge:
        raise UsageError(f"--knowledge {config.knowledge:g} is for --score sigmoid only: it is mixed into the "
                         "network's masks", "Remove --knowledge, or add --score sigmoid")
    scale = PROTOCOLS["sclip"].scale if config.scale is None else config.scale
    return {"scale": scale, "knowledge": 0.0}
