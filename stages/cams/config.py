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

    maps: str = setting("classes", "Whose maps: those of the classes, or of a net of train-cls subcategory the largest "
                        "of each class's sub-categories.", choices=("classes", "subcategories"), source="SC-CAM")
    scales: tuple[float, ...] = setting((0.5, 1.0, 1.5, 2.0), "Sizes of the image, summed.", low=0.05, high=8,
                                        source="IRN")
    flip: bool = setting(True, "Add the mirrored image at each scale.", source="IRN")
    grid_stride: int = setting(4, "Stride of the map that is stored.", low=1, high=64, unit="pixels", source="IRN")
    alignment: str = setting("centres", "Where a cell lies: centred where its receptive field is, or spread "
                             "over the whole image as IRN has it.", choices=("centres", "cells"))


@dataclass(frozen=True)
class GradcamConfig(CamsConfig):
    """Settings of `cams gradcam`."""

    layer: str = setting("", "The layer whose maps are weighed, by its name in the network; empty: the last map of a "
                         "net of train-cls.")
    scales: tuple[float, ...] = setting((1.0,), "Sizes of the image, summed.", low=0.05, high=8)
    flip: bool = setting(False, "Add the mirrored image at each scale.")


@dataclass(frozen=True)
class MctformerConfig(CamsConfig):
    """Settings of `cams mctformer`."""

    map: str = setting("fused", "The attention of the class tokens times the maps of the patch classifier, or one of "
                       "them; v1 has the attention alone.", choices=("fused", "attention", "patch"),
                       source="MCTformer 3.3")
    layers: int = setting(3, "Last layers whose attention makes the maps.", low=1, source="MCTformer")
    affinity: bool = setting(True, "Refine the maps by the attention between patches, summed over all layers.",
                             source="MCTformer 3.2")
    scales: tuple[float, ...] = setting((), "Sizes of the image, summed; empty: those published for the net's version.",
                                        low=0.05, high=8, source="MCTformer: 1; MCTformer+: 1,0.75,1.25")
    flip: bool = setting(True, "Add the mirrored image at each scale.", source="MCTformer")
    as_released: bool = setting(False, "As the released code: images are cut to whole patches instead of resized, and "
                                "positions of v1 and v2 are read up to a tenth of a patch beside their places.")


@dataclass(frozen=True)
class ClipEsConfig(CamsConfig):
    """Settings of `cams clip-es`."""

    names: str = setting("auto", "Words for the classes and the background: a preset, the raw names, synonyms of "
                         "WordNet, or a FILE.toml; auto is the preset that knows all classes, else the raw names.",
                         source="CLIP-ES G")
    template: str = setting("a clean origami {}.", "The prompt; or imagenet, or a file with one a line: their mean.",
                            source="CLIP-ES 3.2.1")
    fuse: str = setting("sentence", "Where synonyms are fused.", choices=("sentence", "feature", "cam"),
                        source="CLIP-ES B")
    background_words: bool = setting(True, "Let the background words compete.", source="CLIP-ES 3.1")
    compete: str = setting("present", "Which classes compete: those of the image, or all of the set.",
                           choices=("present", "all"), source="CLIP-ES Fig. 2")
    target: str = setting("log-odds", "Whose gradient weighs the channels; logit is without softmax. log-odds and "
                          "probability give one map, but the latter fades in half precision.",
                          choices=("log-odds", "probability", "logit"), source="CLIP-ES eq. 3: probability")
    pooling: str = setting("average", "The embedding: mean of the patches, or the class token.",
                           choices=("average", "class"), source="CLIP-ES A")
    scales: tuple[float, ...] = setting((1.0,), "Sizes of the image, summed.", low=0.05, high=8,
                                        source="CLIP-ES 4.2")
    flip: bool = setting(False, "Add the mirrored image at each scale.")
    affinity: str = setting("caa", "Refine the maps: class-aware by boxes, by the plain attention, or not.",
                            choices=("caa", "mhsa", "none"), source="CLIP-ES 3.3")
    attention_layers: int = setting(8, "Blocks whose attention is averaged, counted from the last.", low=1,
                                    source="CLIP-ES, released code")
    rounds: int = setting(3, "Rounds of Sinkhorn's normalisation.", low=0, source="CLIP-ES, released code")
    steps: int = setting(2, "Products with the affinity: t of eq. 7.", low=0, high=64,
                         source="CLIP-ES, released code")
    box_threshold: float | None = setting(None, "Boxes are around what is above this share of the maximum: lambda. "
                                          "Left out: 0.4, with COCO's names 0.7.", low=0, high=1, source="CLIP-ES C")
    box_mask: str = setting("result", "What the boxes mask: the refined map, or what goes into it.",
                            choices=("result", "source"), source="CLIP-ES eq. 7")
    as_released: bool = setting(False, "As the released code: boxes mask the source, lack the grid's last row and "
                                "column and are cut on 8-bit levels; 1e-7 is added to the maximum that maps are "
                                "divided by, which dims classes with a probability below about 1e-9; position "
                                "embeddings are rounded to fp16; its spelling of the names.")
    batch_size: int = setting(0, "Images of equal padded size computed at once; 0: 1 on a CPU, 16 on a GPU.", low=0)
    precision: str = setting("fp32", "Arithmetic of all blocks but the last, which is fp32.",
                             choices=("fp32", "bf16", "fp16"))

    @property
    def masked_by_boxes(self) -> str:
        """What the boxes mask, `box_mask` or as released."""
        return "source" if self.as_released else self.box_mask
