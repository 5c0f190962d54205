"""Settings of `wsss cams`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import max_side_setting, setting


@dataclass(frozen=True)
class CamsConfig:
    """Settings that all `cams` methods share."""

    tags: str = setting("index", "Classes that get a CAM: index (the image's tags in the index; for image files, which "
                        "have none, best:0.5), predicted:T (classes that the network scores T or more), best:T (the "
                        "same, or the class of the highest score if none reaches T), or all.")
    classes: tuple[str, ...] = setting((), "Names of the only classes that get a CAM, whatever the tags of the image; "
                                       "instead of --tags.")
    max_side: int = max_side_setting()
    batch_size: int = setting(4, "Number of images of equal size per batch; fewer if they are larger than 640 x 480 "
                              "pixels.", low=1)
    shard_size: int = setting(256, "Number of images per shard.", low=1)
    precision: str = setting("fp32", "Floating-point format of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to run on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


@dataclass(frozen=True)
class CnnConfig(CamsConfig):
    """Settings of `cams cnn`."""

    maps: str = setting("classes", "Which outputs make the CAMs: the classes, or (for a network of train-cls "
                        "subcategory) the maximum over each class's sub-categories.",
                        choices=("classes", "subcategories"), source="SC-CAM")
    scales: tuple[float, ...] = setting((0.5, 1.0, 1.5, 2.0), "Factors by which the image is resized; the CAMs of all "
                                        "scales are summed.", low=0.05, high=8, source="IRN")
    flip: bool = setting(True, "Also use the mirrored image at each scale, and sum the CAMs.", source="IRN")
    grid_stride: int = setting(4, "Stride of the stored CAMs. Smaller values give finer CAMs and larger shards.", low=1,
                               high=64, unit="pixels", source="IRN")
    precision: str = setting("fp32", "Floating-point format of the network. auto is bf16 on a processor that computes "
                             "in it, else fp32; the one that was used is recorded. bf16 is twice as fast on a CPU and "
                             "changes the CAMs: on photographs of VOC by 0.006 on average and at most 0.06, of 1.",
                             choices=("auto", "fp32", "bf16", "fp16"))
    alignment: str = setting("centres", "Position of the cells in the image: at the centres of their receptive fields, "
                             "or as equal cells stretched over the whole image, as in IRN.",
                             choices=("centres", "cells"))


@dataclass(frozen=True)
class GradcamConfig(CamsConfig):
    """Settings of `cams gradcam`."""

    layer: str = setting("", "Name of the network's layer whose feature maps are weighted. If empty, the last feature "
                         "maps of a network of train-cls are used.")
    scales: tuple[float, ...] = setting((1.0,), "Factors by which the image is resized; the CAMs of all scales are "
                                        "summed.", low=0.05, high=8)
    flip: bool = setting(False, "Also use the mirrored image at each scale, and sum the CAMs.")
    score: str = setting("auto", "Scores of the classes: sigmoid (each class by itself) or softmax (classes compete, "
                         "as classifiers of ImageNet are trained). auto uses softmax for image files with ImageNet's "
                         "class names, else sigmoid.", choices=("auto", "sigmoid", "softmax"))


@dataclass(frozen=True)
class MctformerConfig(CamsConfig):
    """Settings of `cams mctformer`."""

    map: str = setting("fused", "What the CAMs show: the product of the class tokens' attention and the patch "
                       "classifier's maps (fused), or one of the two. Version v1 has only the attention.",
                       choices=("fused", "attention", "patch"), source="MCTformer 3.3")
    layers: int = setting(3, "Number of last layers whose class attention is used.", low=1, source="MCTformer")
    affinity: bool = setting(True, "Refine the CAMs by the attention between patches, summed over all layers.",
                             source="MCTformer 3.2")
    scales: tuple[float, ...] = setting((), "Factors by which the image is resized; the CAMs of all scales are summed. "
                                        "If empty, the published scales of the network's version are used.", low=0.05,
                                        high=8, source="MCTformer: 1; MCTformer+: 1,0.75,1.25")
    flip: bool = setting(True, "Also use the mirrored image at each scale, and sum the CAMs.", source="MCTformer")
    as_released: bool = setting(False, "Reproduce the released code: images are cropped to whole patches instead of "
                                "resized, and the position embeddings of v1 and v2 are interpolated up to a tenth of a "
                                "patch off.")


@dataclass(frozen=True)
class ClipEsConfig(CamsConfig):
    """Settings of `cams clip-es`."""

    names: str = setting("auto", "Words for the classes and the background: voc, coco, none (the raw names), wordnet, "
                         "or a FILE.toml. auto uses the preset that has all classes of the index, or the raw names.",
                         source="CLIP-ES G")
    template: str = setting("a clean origami {}.", "Prompt template; imagenet or a file with one template per line "
                            "averages several.", source="CLIP-ES 3.2.1")
    fuse: str = setting("sentence", "Where synonyms of a class are combined: in the prompt, as text features, or as "
                        "CAMs.", choices=("sentence", "feature", "cam"), source="CLIP-ES B")
    background_words: bool = setting(True, "Let background words (such as ground or tree) compete with the classes.",
                                     source="CLIP-ES 3.1")
    compete: str = setting("present", "Which classes compete: those present in the image, or all of the data set.",
                           choices=("present", "all"), source="CLIP-ES Fig. 2")
    target: str = setting("log-odds", "Score whose gradient weights the channels. log-odds and probability give the "
                          "same CAM, but probability vanishes in half precision; logit is without softmax.",
                          choices=("log-odds", "probability", "logit"), source="CLIP-ES eq. 3: probability")
    pooling: str = setting("average", "Image embedding: the mean of the patches, or the class token.",
                           choices=("average", "class"), source="CLIP-ES A")
    scales: tuple[float, ...] = setting((1.0,), "Factors by which the image is resized; the CAMs of all scales are "
                                        "summed.", low=0.05, high=8, source="CLIP-ES 4.2")
    flip: bool = setting(False, "Also use the mirrored image at each scale, and sum the CAMs.")
    affinity: str = setting("caa", "How the CAMs are refined: caa (class-aware, inside boxes), mhsa (by plain "
                            "attention), or none.", choices=("caa", "mhsa", "none"), source="CLIP-ES 3.3")
    attention_layers: int = setting(8, "Number of last blocks whose attention is averaged.", low=1,
                                    source="CLIP-ES, released code")
    rounds: int = setting(3, "Rounds of Sinkhorn normalisation of the attention.", low=0,
                          source="CLIP-ES, released code")
    steps: int = setting(2, "Number of products with the affinity (t in eq. 7). More steps smooth the CAMs.", low=0,
                         high=64, source="CLIP-ES, released code")
    box_threshold: float | None = setting(None, "Boxes surround the parts of a CAM above this share of its maximum "
                                          "(lambda). By default 0.4, or 0.7 with COCO's names.", low=0, high=1,
                                          source="CLIP-ES C")
    box_mask: str = setting("result", "What the boxes mask: the refined CAM (result), or the CAM before refinement "
                            "(source).", choices=("result", "source"), source="CLIP-ES eq. 7")
    as_released: bool = setting(False, "Reproduce the released code: boxes mask the source, exclude the grid's last "
                                "row and column and are thresholded at 8-bit levels; 1e-7 is added to the maximum by "
                                "which CAMs are divided, which dims classes with a probability below about 1e-9; "
                                "position embeddings are rounded to fp16; class names are spelled as there.")
    batch_size: int = setting(0, "Images per batch, of equal size in patches; 0 means 1 on a CPU and 16 on a GPU.",
                              low=0)
    precision: str = setting("fp32", "Floating-point format of all blocks except the last, which is fp32.",
                             choices=("fp32", "bf16", "fp16"))

    @property
    def effective_box_mask(self) -> str:
        """What the boxes mask: `box_mask`, or "source" with `as_released`."""
        return "source" if self.as_released else self.box_mask


@dataclass(frozen=True)
class ExcelConfig(CamsConfig):
    """Settings of `cams excel`."""

    names: str = setting("auto", "Words for the classes and the background: voc, coco, none (the raw names), wordnet, "
                         "or a FILE.toml. auto uses the preset that has all classes of the index, or the raw names.",
                         source="CLIP-ES G")
    template: str = setting("a clean origami {}.", "Prompt template; imagenet or a file with one template per line "
                            "averages several.", source="CLIP-ES 3.2.1")
    fuse: str = setting("sentence", "Where synonyms of a class are combined: in the prompt, or as text features.",
                        choices=("sentence", "feature"), source="CLIP-ES B")
    background_words: bool = setting(True, "Compare the classes also with background words (such as ground or tree).",
                                     source="ExCEL, released code")
    text_shift: str = setting("none", "What is added to the text features of the classes: none; mean, the mean of the "
                              "classes' text features; or the centres in a .pt, .npy or .npz file of text features of "
                              "descriptions: their mean (mean:FILE), or a mean for each class, weighted by similarity "
                              "(bank:FILE, as in the paper).")
    side: int = setting(320, "Side of the square to which every image is resized, whatever its shape; rounded up to "
                        "whole patches.", low=32, high=4096, unit="pixels", source="ExCEL, released code")
    statistics: str = setting("imagenet", "Mean and standard deviation by which images are normalised: those of "
                              "ImageNet, or of the CLIP model.", choices=("imagenet", "clip"),
                              source="ExCEL, released code")
    calibrated_layers: int = setting(5, "Number of last blocks in which patches attend to similar patches.", low=1,
                                     source="ExCEL, released code")
    affinity: str = setting("caa", "How the CAMs are refined: caa (class-aware, inside boxes), mhsa (by plain "
                            "attention), or none.", choices=("caa", "mhsa", "none"), source="CLIP-ES 3.3")
    attention_layers: int = setting(6, "Number of last blocks whose attention is averaged.", low=1,
                                    source="ExCEL, released code")
    rounds: int = setting(3, "Rounds of Sinkhorn normalisation of the attention.", low=0,
                          source="CLIP-ES, released code")
    steps: int = setting(2, "Number of products with the affinity. More steps smooth the CAMs.", low=0, high=64,
                         source="CLIP-ES, released code")
    box_threshold: float = setting(0.79, "Boxes surround the parts of a CAM above this share of its maximum "
                                   "(lambda).", low=0, high=1, source="ExCEL, released code")
    box_mask: str = setting("source", "What the boxes mask: the refined CAM (result), or the CAM before refinement "
                            "(source).", choices=("result", "source"), source="ExCEL, released code")
    as_released: bool = setting(False, "Reproduce the released code: boxes exclude the grid's last row and column and "
                                "are thresholded at 8-bit levels, the attention of blocks before the calibrated ones "
                                "is divided by the number of heads, images much larger than --side are resized "
                                "without antialiasing, and class names are spelled as in CLIP-ES's code.")
    batch_size: int = setting(0, "Images per batch; 0 means 1 on a CPU and 16 on a GPU.", low=0)
    precision: str = setting("fp32", "Floating-point format of all blocks except the last, which is fp32.",
                             choices=("fp32", "bf16", "fp16"))

    @property
    def effective_box_mask(self) -> str:
        """What the boxes mask: `box_mask`, or "source" with `as_released`."""
        return "source" if self.as_released else self.box_mask
