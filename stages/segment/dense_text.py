"""Compare the patches of an image with words: cosines in sliding windows, their mean, and the scores of the classes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.pamr import pamr
from stages.kernels.sliding_windows import SlidingWindows
from stages.segment.config import WordsConfig

# Maps windows (B, 3, H, W) to the embeddings (B, E, h, w) of their patches.
Embed = Callable[[Tensor], Tensor]
_MAX_GRID_CELLS = 1_000_000
_PAMR_STRIDE = 4  # patch scores are repeated to this stride before PAMR refines the scores of a window (TCL)


class WordVectors(NamedTuple):
    """Unit vectors (Q, E) of the words, in the order of the classes, and the number of words of the C + 1 classes.

    Class 0 is the background, which may have no words; without `has_background` it never wins. `clip_vectors` (Q, E)
    are the vectors for CLIP's own map, for networks whose learnt map needs different ones.
    """

    vectors: Tensor
    words_per_class: tuple[int, ...]
    has_background: bool
    clip_vectors: Tensor | None = None


@torch.inference_mode()
def score_image(embed: Embed, view: Tensor, image: Tensor, windows: SlidingWindows, text: WordVectors,
                grid: tuple[int, int], config: WordsConfig) -> Tensor:
    """Return the scores (C + 1, h, w) in [0, 1] of an image on `grid`.

    `view` (3, H', W') is the resized, normalised image that is cut into `windows`; `image` (3, H, W) is used by PAMR.
    All settings of `config` must be resolved.
    """
    crops = windows.crop(view)
    cosines = torch.cat([_compute_cosines(embed(batch), text.vectors) for batch in crops.split(config.batch_size)])
    if config.blend == "scores":
        scores = torch.stack([score_classes(window_cosines, text, config) for window_cosines in cosines])
        if config.pamr:
            fine = (crops.shape[-2] // _PAMR_STRIDE, crops.shape[-1] // _PAMR_STRIDE)
            scores = refine_windows(F.interpolate(scores, fine, mode="nearest"), crops, config)
        blended = windows.blend(scores, grid)
    else:
        blended = windows.blend(cosines, grid)
        if config.pamr:
            colours = resize_to_grid(image, grid)
            blended = pamr(colours, blended, config.dilations, config.iterations)
        blended = score_classes(blended, text, config, overwrite=True)
    return apply_threshold(blended, text, config)


def score_classes(cosines: Tensor, text: WordVectors, config: WordsConfig, *, overwrite: bool = False) -> Tensor:
    """Return the scores (C + 1, h, w) of cosines (Q, h, w): for each class the best score of its words.

    With `overwrite` the cosines are overwritten: of 30 words and a megapixel they take 120 MB. The softmax is over all
    words of all classes, so a class with more words has more chances (SCLIP). The sigmoid of a network's own masks is
    in `grounded`.
    """
    logits = cosines.mul_(config.scale) if overwrite else config.scale * cosines
    scores = logits.softmax(dim=0) if config.score == "softmax" else torch.sigmoid(logits + config.shift)
    return select_best_words(scores, text)


def select_best_words(scores: Tensor, text: WordVectors) -> Tensor:
    """Return the best score of each class (C + 1, h, w) among its words' scores (Q, h, w), 0 if it has no words."""
    rows = scores.new_zeros(len(text.words_per_class), *scores.shape[1:])
    for row, word_scores in zip(rows, scores.split(text.words_per_class), strict=True):
        if len(word_scores):
            torch.amax(word_scores, dim=0, out=row)
    return rows


def apply_threshold(scores: Tensor, text: WordVectors, config: WordsConfig) -> Tensor:
    """Return scores (C + 1, h, w) whose background is raised to the threshold; it wins ties (TCL).

    With `area_threshold`, classes that win too few cells are removed first.
    """
    if text.has_background and config.area_threshold:
        scores = remove_small_classes(scores, config.area_threshold)
    if text.has_background and config.background in ("threshold", "both"):
        scores[0].clamp_(min=float(config.threshold or 0))
    return scores.clamp_(0, 1)


def remove_small_classes(scores: Tensor, share: float) -> Tensor:
    """Set the scores (C + 1, h, w) of classes that win at most `share` of the cells won by classes 1..C to 0.

    Their cells go to the class with the next highest score there (SCLIP's released code, on VOC).
    """
    num_cells = scores.argmax(0).flatten().bincount(minlength=len(scores))[1:]
    scores[1:] *= (num_cells > share * num_cells.sum())[:, None, None]
    return scores


def _compute_cosines(embeddings: Tensor, vectors: Tensor) -> Tensor:
    """Return the cosine similarities (B, Q, h, w) of embeddings (B, E, h, w) and unit vectors (Q, E)."""
    unit = F.normalize(embeddings.float(), dim=1)
    return (vectors @ unit.flatten(2)).unflatten(-1, embeddings.shape[-2:])


def refine_windows(scores: Tensor, crops: Tensor, config: WordsConfig) -> Tensor:
    """Return the scores (M, K, h, w) of windows, each refined by PAMR on its crop (M, 3, H', W')."""
    colours = F.interpolate(crops, scores.shape[-2:], mode="bilinear", align_corners=True)
    return torch.stack([pamr(crop, maps, config.dilations, config.iterations)
                        for crop, maps in zip(colours, scores, strict=True)])


def resize_to_grid(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the image (3, H, W) resized to `grid`."""
    if tuple(image.shape[1:]) == tuple(grid):
        return image
    return F.interpolate(image[None], grid, mode="bilinear", align_corners=False, antialias=True)[0]


def choose_grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the grid (h, w), `size` / `stride` rounded up; stride 0: the least one that gives at most a megapixel."""
    for step in (stride,) if stride else count(1):
        grid = (-(-size[0] // step), -(-size[1] // step))
        if stride or grid[0] * grid[1] <= _MAX_GRID_CELLS:
            break
    return grid
