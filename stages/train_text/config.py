"""Settings of `wsss train-text`.

Where CoDe's thesis and its released code differ, the thesis is the default where it says all that is needed, and the
help says what the code has. In two places it does not: where the learnt context stands (it "appends" it to the noun, by
the method of KgCoOp, whose context stands before it), and the mask on the image (a dot product, without what makes a
mask of it; it takes TCL's segmenter and loss, whose mask on the image is drawn 0 or 1). There the default is KgCoOp's
and TCL's own, which the code has too.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import LoopConfig

# For how many images a step the learning rate is CoDe's; TCL's rule is a rate in proportion to them.
IMAGES_OF_RATE = 64


@dataclass(frozen=True)
class TclConfig(LoopConfig):
    """Settings of `train-text tcl`: an image segmenter learnt from whole captions."""

    mean: tuple[float, ...] = setting((0.485, 0.456, 0.406), "Mean of the input, in [0, 1].", low=0, high=1,
                                      source="TCL and CoDe, released code: ImageNet's, not CLIP's", counts=(3,))
    std: tuple[float, ...] = setting((0.229, 0.224, 0.225), "Standard deviation of the input.", low=0.001, high=1,
                                     source="as for --mean", counts=(3,))
    crop_size: int = setting(224, "Side of the square that the network sees.", low=16, unit="pixels",
                             source="CoDe, section 3.5")
    crop_area: tuple[float, ...] = setting((0.08, 1.0), "The share of the image that is seen is drawn from this range.",
                                           low=0.001, high=1, source="TCL; CoDe's code: 0.9,1",
                                           counts=(2,), ascending=True)
    rand_augment: float = setting(9.0, "Magnitude of RandAugment; 0: none.", low=0, high=10,
                                  source="TCL; CoDe's code: 0")
    erase: float = setting(0.25, "Share of the views in which a rectangle is erased.", low=0, high=1,
                           source="TCL; CoDe's code: 0")
    flip: bool = setting(True, "Mirror half of the images.")
    steps: int = setting(50_000, "Steps in all; 0: as many as --epochs make.", low=0, source="CoDe, section 3.5")
    save_every: int = setting(1000, "Steps between two states on disk and two lines in the log; 0: a pass.", low=0)
    epochs: int = setting(1, "Passes over the images, where --steps is 0.", low=1)
    batch_size: int = setting(16, "Images in a batch, in each process.", low=1, source="CoDe: 64 on four GPUs")
    lr: float = setting(5e-6, "Learning rate.", low=0, high=1000, source="CoDe; TCL: 3.2e-4 x batch / 4096")
    optimizer: str = setting("adamw", "The optimiser.", choices=("sgd", "adamw"), source="CoDe, section 3.5")
    weight_decay: float = setting(0.05, "Weight decay.", low=0, source="CoDe, section 3.5")
    decay: str = setting("but-vectors", "What decays: all, all but vectors (biases, norms), or nothing but matrices.",
                         choices=("all", "but-vectors", "matrices"), source="TCL's code: gates and scales decay")
    adam_epsilon: float = setting(1e-6, "Epsilon of AdamW.", low=1e-12, high=0.1, source="TCL and CoDe, released code")
    schedule: str = setting("warmup-cosine", "warmup-cosine: first the rise, then half a wave; others as elsewhere.",
                            choices=("warmup-cosine", "poly", "cosine", "constant"), source="CoDe, section 3.5")
    lr_floor: float = setting(6.25e-7, "Rate at which the cosine ends.", low=0, high=1000,
                              source="CoDe's code: 4e-5 x batch / 4096")
    warmup: int = setting(15_000, "Steps over which the rate rises from a ten-thousandth of --lr.", low=0,
                          source="CoDe, section 3.5")
    gradient_clip: float = setting(5.0, "Clip the gradient to this norm; 0: do not.", low=0, source="TCL")
    unfreeze_at: int = setting(30_000, "Step from which the copy of the last block learns too.", low=0, source="TCL")
    convolutions: int = setting(2, "Gated convolutions after each doubling of the map.", low=1, high=4,
                                source="TCL; CoDe's code: 1")
    dense: str = setting("raw", "The map that is pooled and smoothed: raw, or unit vectors.", choices=("raw", "unit"),
                         source="TCL; CoDe's code: unit")
    lambda_contrast: float = setting(0.1, "Weight of the contrasts of masked images and of pooled maps.", low=0,
                                     source="TCL")
    area_prior: float = setting(0.4, "Mean area of the masks of what is there.", low=0, high=1,
                                source="TCL; CoDe's code: 0.25")
    lambda_area: float = setting(0.4, "Weight of the area of masks of what is there.", low=0,
                                 source="TCL; CoDe's code: 0.5")
    lambda_area_negative: float = setting(0.4, "Weight of the area of masks of other texts.", low=0,
                                          source="TCL; CoDe's code: 0.05")
    lambda_smooth: float = setting(1.0, "Weight of the total variation of map and masks.", low=0, source="TCL")
    region_mask: str = setting("hard", "The mask on the image: drawn 0 or 1, as TCL's segmenter does, or soft.",
                               choices=("hard", "soft"), source="TCL, which the thesis takes, and CoDe's code")

    @property
    def largest_gradient(self) -> float:
        """The norm that gradients are clipped to; 0: they are not."""
        return self.gradient_clip


@dataclass(frozen=True)
class CodeConfig(TclConfig):
    """Settings of `train-text code`: image and text are decomposed together, noun by noun."""

    crop_area: tuple[float, ...] = setting((0.9, 1.0), "The share of the image that is seen is drawn from this range.",
                                           low=0.001, high=1, source="CoDe's code (the thesis is silent); TCL: 0.08,1",
                                           counts=(2,), ascending=True)
    rand_augment: float = setting(0.0, "Magnitude of RandAugment; 0: none.", low=0, high=10,
                                  source="CoDe's code; TCL: 9")
    erase: float = setting(0.0, "Share of the views in which a rectangle is erased.", low=0, high=1,
                           source="CoDe's code; TCL: 0.25")
    nouns: str = setting("auto", "Who finds the nouns: NLTK's tagger, built-in rules, or --nouns-file; auto: NLTK "
                         "where its data are, else the rules.", choices=("auto", "nltk", "rules", "file"))
    picture_words: bool = setting(False, "Take words for the picture itself (photo, image, ...) as nouns too.")
    n_nouns: int = setting(2, "Nouns drawn from a caption.", low=1, high=8, source="CoDe, section 3.5")
    n_context: int = setting(16, "Vectors of the learnt context of nouns.", low=1, high=32,
                             source="CoDe's code; KgCoOp: 4")
    noun_place: str = setting("before", "Where the context stands: before or after the noun.",
                              choices=("before", "after"), source="KgCoOp, which the thesis takes, and CoDe's code; "
                              "the thesis's own word is appended")
    template: str = setting("a photo of a {}", "What nouns are held to: a template, imagenet (one of 80 drawn anew), "
                            "or a file.", source="CoDe, section 3.2; its code: imagenet")
    knowledge: str = setting("squared", "Distance to it: squared, or 1 - cosine, which is half of that.",
                             choices=("squared", "cosine"), source="CoDe, eq. 3.1; its code and KgCoOp's: cosine")
    text_layer: str = setting("attention", "Layers of the text segmenter: attention alone, or whole blocks.",
                              choices=("attention", "block"), source="CoDe, section 3.2; its code: block")
    text_labels: str = setting("argmax", "Labels of words: its own argmax, or where the nouns stand in the caption.",
                               choices=("argmax", "match"), source="CoDe, section 3.2; its code: match")
    none_weight: float = setting(1.0, "Weight of words of no noun in that loss.", low=0,
                                 source="CoDe, section 3.2; its code: 0.5")
    pairs: str = setting("noun", "What is contrasted: one noun of each image at a time, or all nouns together.",
                         choices=("noun", "all"), source="CoDe, section 3.4; its code: all")
    lambda_kg: float = setting(8.0, "Weight of the distance of nouns to the template's.", low=0,
                               source="CoDe, section 3.5")
    lambda_image: float = setting(1.0, "Weight of TCL's losses.", low=0, source="CoDe, section 3.5")
    lambda_text: float = setting(1.0, "Weight of the text segmenter's loss.", low=0, source="CoDe, section 3.5")
    lambda_hcl: float = setting(0.5, "Weight of the contrast of regions and words.", low=0,
                                source="CoDe, section 3.5, table 4.3")
    co_decomposition: bool = setting(True, "Decompose the text too; the baseline of table 4.2 has neither this nor "
                                   "the two prompts: --no-word-prompt --no-region-prompt.")
    word_prompt: bool = setting(True, "Learn what fills masked words (W. of table 4.2); off is zeros.")
    region_prompt: bool = setting(True, "Learn what fills masked regions (R. of table 4.2); off is the mean colour.")
    regions_with: str = setting("segments", "What regions are contrasted with: word segments, or the nouns alone.",
                                choices=("segments", "nouns"), source="CoDe, section 4.4: nouns is worse")
