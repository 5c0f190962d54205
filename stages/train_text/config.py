"""Settings of `wsss train-text`.

Where CoDe's thesis and its released code differ, the defaults follow the thesis if it says enough, and the help says
what the code does. In two places the thesis does not: where the learnt context stands (it "appends" the context to the
noun, by the method of KgCoOp, whose context stands before it), and how the mask on the image is made (it gives a dot
product, without the step that makes a mask of it, and takes TCL's segmenter and loss, whose mask on the image is
sampled as 0 or 1). There the defaults are those of KgCoOp and TCL, which the code shares.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import LoopConfig

# Images per step for which CoDe's learning rate is meant; TCL scales the rate in proportion to their number.
REFERENCE_BATCH_SIZE = 64


@dataclass(frozen=True)
class TclConfig(LoopConfig):
    """Settings of `train-text tcl`: an image segmenter trained on whole captions."""

    mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "Mean of the input, in [0, 1].", low=0, high=1,
                                      source="TCL and CoDe, released code: ImageNet's, not CLIP's", lengths=(3,))
    std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "Standard deviation of the input.", low=0.001, high=1,
                                     source="as for --mean", lengths=(3,))
    crop_size: int = setting(224, "Side of the square crops that the network is trained on.", low=16, unit="pixels",
                             source="CoDe, section 3.5")
    crop_area: tuple[float, ...] = setting((0.08, 1.0), "Crop a random share of the image area in this range.",
                                           low=0.001, high=1, source="TCL; CoDe's code: 0.9,1",
                                           lengths=(2,), ascending=True)
    rand_augment: float = setting(9.0, "Magnitude of RandAugment; 0 turns it off.", low=0, high=10,
                                  source="TCL; CoDe's code: 0")
    erase: float = setting(0.25, "Probability of erasing a random rectangle of a view.", low=0, high=1,
                           source="TCL; CoDe's code: 0")
    flip: bool = setting(True, "Mirror a random half of the images.")
    steps: int = setting(50_000, "Total number of optimiser steps; 0 trains for --epochs.", low=0,
                         source="CoDe, section 3.5")
    save_every: int = setting(1000, "Steps between two checkpoints, and between two lines of the log; 0 is one epoch.",
                              low=0)
    epochs: int = setting(1, "Number of passes over the images, when --steps is 0.", low=1)
    batch_size: int = setting(16, "Images per batch, in each process.", low=1, source="CoDe: 64 on four GPUs")
    lr: float = setting(5e-6, "Learning rate.", low=0, high=1000, source="CoDe; TCL: 3.2e-4 x batch / 4096")
    optimizer: str = setting("adamw", "Optimiser.", choices=("sgd", "adamw"), source="CoDe, section 3.5")
    weight_decay: float = setting(0.05, "Weight decay.", low=0, source="CoDe, section 3.5")
    decay: str = setting("but-vectors", "Parameters with weight decay: all, all but vectors (biases, norms), or only "
                         "matrices.",
                         choices=("all", "but-vectors", "matrices"), source="TCL's code: gates and scales decay")
    adam_epsilon: float = setting(1e-6, "Epsilon of AdamW.", low=1e-12, high=0.1, source="TCL and CoDe, released code")
    schedule: str = setting("warmup-cosine", "Learning rate schedule: warmup-cosine, the warm-up first, then a half "
                            "wave down to --lr-floor over the remaining steps; poly, (1 - step / steps) ^ 0.9; cosine, "
                            "a half wave over all steps; or constant.",
                            choices=("warmup-cosine", "poly", "cosine", "constant"), source="CoDe, section 3.5")
    lr_floor: float = setting(6.25e-7, "Learning rate at the end of the cosine.", low=0, high=1000,
                              source="CoDe's code: 4e-5 x batch / 4096")
    warmup: int = setting(15_000, "Warm-up: steps over which the rate rises from a ten-thousandth of --lr.", low=0,
                          source="CoDe, section 3.5")
    gradient_clip: float = setting(5.0, "Clip gradients to this norm; 0 does not clip them.", low=0, source="TCL")
    unfreeze_at: int = setting(30_000, "Step from which the copy of CLIP's last block is trained too.", low=0,
                               source="TCL")
    convolutions: int = setting(2, "Number of gated convolutions after each doubling of the map.", low=1, high=4,
                                source="TCL; CoDe's code: 1")
    dense: str = setting("raw", "Map that is pooled and smoothed: raw, or its unit vectors.", choices=("raw", "unit"),
                         source="TCL; CoDe's code: unit")
    lambda_contrast: float = setting(0.1, "Weight of the contrastive losses of masked images and of pooled maps.",
                                     low=0, source="TCL")
    area_prior: float = setting(0.4, "Expected mean area of the masks of texts that belong to the image.", low=0,
                                high=1, source="TCL; CoDe's code: 0.25")
    lambda_area: float = setting(0.4, "Weight of the area loss of the masks of texts that belong to the image.", low=0,
                                 source="TCL; CoDe's code: 0.5")
    lambda_area_negative: float = setting(0.4, "Weight of the area loss of the masks of other texts.", low=0,
                                          source="TCL; CoDe's code: 0.05")
    lambda_smooth: float = setting(1.0, "Weight of the total variation of maps and masks.", low=0, source="TCL")
    region_mask: str = setting("hard", "Mask on the image: hard, sampled as 0 or 1 as in TCL's segmenter, or soft.",
                               choices=("hard", "soft"), source="TCL, which the thesis takes, and CoDe's code")

    @property
    def max_gradient_norm(self) -> float:
        """The norm to which gradients are clipped; 0 does not clip them."""
        return self.gradient_clip


@dataclass(frozen=True)
class CodeConfig(TclConfig):
    """Settings of `train-text code`: images and texts are decomposed together, noun by noun."""

    crop_area: tuple[float, ...] = setting((0.9, 1.0), "Crop a random share of the image area in this range.",
                                           low=0.001, high=1, source="CoDe's code (not in the thesis); TCL: 0.08,1",
                                           lengths=(2,), ascending=True)
    rand_augment: float = setting(0.0, "Magnitude of RandAugment; 0 turns it off.", low=0, high=10,
                                  source="CoDe's code; TCL: 9")
    erase: float = setting(0.0, "Probability of erasing a random rectangle of a view.", low=0, high=1,
                           source="CoDe's code; TCL: 0.25")
    nouns: str = setting("auto", "Source of the nouns: NLTK's tagger, the built-in rules, or --nouns-file; auto is "
                         "NLTK if its data are installed, else the rules.", choices=("auto", "nltk", "rules", "file"))
    picture_words: bool = setting(False, "Keep words for the image itself (photo, image, ...) as nouns.")
    n_nouns: int = setting(2, "Number of nouns drawn from each caption.", low=1, high=8, source="CoDe, section 3.5")
    n_context: int = setting(16, "Number of vectors in the learnt context of nouns.", low=1, high=32,
                             source="CoDe's code; KgCoOp: 4")
    noun_place: str = setting("before", "Position of the context: before or after the noun.",
                              choices=("before", "after"), source="KgCoOp, which the thesis uses, and CoDe's code; "
                              "the thesis says appended")
    template: str = setting("a photo of a {}", "Template of the reference embeddings of nouns: a text with {}, "
                            "imagenet (one of its 80, drawn for each noun), or a file.",
                            source="CoDe, section 3.2; its code: imagenet")
    knowledge: str = setting("squared", "Distance to the reference embeddings: squared, or 1 - cosine, which is half "
                             "of it.", choices=("squared", "cosine"),
                             source="CoDe, eq. 3.1; its code and KgCoOp's: cosine")
    text_layer: str = setting("attention", "Layers of the text segmenter: only attention, or whole transformer blocks.",
                              choices=("attention", "block"), source="CoDe, section 3.2; its code: block")
    text_labels: str = setting("argmax", "Labels of words: the text segmenter's argmax, or a match with the caption's "
                               "nouns.", choices=("argmax", "match"), source="CoDe, section 3.2; its code: match")
    none_weight: float = setting(1.0, "Weight of words that belong to no noun in the loss of the text segmenter.",
                                 low=0, source="CoDe, section 3.2; its code: 0.5")
    pairs: str = setting("noun", "What the contrastive losses compare: one noun of each image at a time, or all nouns "
                         "together.",
                         choices=("noun", "all"), source="CoDe, section 3.4; its code: all")
    lambda_kg: float = setting(8.0, "Weight of the distance of nouns to their reference embeddings.", low=0,
                               source="CoDe, section 3.5")
    lambda_image: float = setting(1.0, "Weight of TCL's losses.", low=0, source="CoDe, section 3.5")
    lambda_text: float = setting(1.0, "Weight of the text segmenter's loss.", low=0, source="CoDe, section 3.5")
    lambda_hcl: float = setting(0.5, "Weight of the contrastive loss between regions and words.", low=0,
                                source="CoDe, section 3.5, table 4.3")
    co_decomposition: bool = setting(True, "Decompose the text too; for the baseline of table 4.2 turn this off, "
                                   "with --no-word-prompt --no-region-prompt.")
    word_prompt: bool = setting(True, "Learn the fill of masked words (W. of table 4.2); off fills with zeros.")
    region_prompt: bool = setting(True, "Learn the fill of masked regions (R. of table 4.2); off fills with the mean "
                                  "colour.")
    regions_with: str = setting("segments", "What regions are compared with: word segments, or the nouns themselves.",
                                choices=("segments", "nouns"), source="CoDe, section 4.4: nouns is worse")
