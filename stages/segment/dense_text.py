"""Images compared with words, patch by patch: windows, cosines, their mean, and the scores of the classes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.pamr import pamr
from stages.kernels.windows import Windows
from stages.segment.config import WordsConfig

# From windows (B, 3, H, W) to the embeddings (B, E, h, w) of their patches.
Embed = Callable[[Tensor], Tensor]
_MOST_CELLS = 1_000_000
_FINE = 4  # stride to which patches are repeated before PAMR refines a window's scores (TCL)


class TextSide(NamedTuple):
    """The words: unit vectors (Q, E), in the order of the classes, and how many each of the C + 1 rows has.

    Row 0 is the background, which may have none; without `background` it never wins. `kept` are the vectors (Q, E) for
    CLIP's own map, where a net has others for the map that it has learnt.
    """

    vectors: Tensor
    counts: tuple[int, ...]
    background: bool
    kept: Tensor | None = None


@torch.inference_mode()
def image_scores(embed: Embed, view: Tensor, picture: Tensor, windows: Windows, text: TextSide, grid: tuple[int, int],
                 config: WordsConfig) -> Tensor:
    """Return the scores (C + 1, h, w) in [0, 1] of an image on `grid`.

    `view` (3, H', W') is the normalised image that `windows` cut up, `picture` (3, H, W) what PAMR looks at. `config`
    has every setting resolved.
    """
    parts = windows.cut(view)
    cosines = torch.cat([_cosines(embed(some), text.vectors) for some in parts.split(config.batch_size)])
    if config.blend == "scores":
        scores = torch.stack([class_scores(one, text, config) for one in cosines])
        if config.pamr:
            fine = (parts.shape[-2] // _FINE, parts.shape[-1] // _FINE)
            scores = refined_windows(F.interpolate(scores, fine, mode="nearest"), parts, config)
        blended = windows.blend(scores, grid)
    else:
        blended = windows.blend(cosines, grid)
        if config.pamr:
            colours = on_grid(picture, grid)
            blended = pamr(colours, blended, config.dilations, config.iterations)
        blended = class_scores(blended, text, config)
    return with_threshold(blended, text, config)


def class_scores(cosines: Tensor, text: TextSide, config: WordsConfig) -> Tensor:
    """Return the scores (C + 1, h, w) of cosines (Q, h, w): of each class the best of its words.

    The softmax is over all words of all classes, so a class with more words has more chances (SCLIP). The sigmoid of a
    net's own masks is not here but in `grounded`.
    """
    logits = config.scale * cosines
    scores = logits.softmax(dim=0) if config.score == "softmax" else torch.sigmoid(logits + config.shift)
    return best_words(scores, text)


def best_words(scores: Tensor, text: TextSide) -> Tensor:
    """Return (C + 1, h, w) of the words' scores (Q, h, w): the best of each class, 0 for one without a word."""
    rows = scores.new_zeros(len(text.counts), *scores.shape[1:])
    for row, own in zip(rows, scores.split(text.counts), strict=True):
        if len(own):
            torch.amax(own, dim=0, out=row)
    return rows


def with_threshold(scores: Tensor, text: TextSide, config: WordsConfig) -> Tensor:
    """Return scores (C + 1, h, w) whose background is the threshold at least: ties go to it (TCL).

    Before that classes that win too few cells are taken out, where `area_threshold` says so.
    """
    if text.background and config.area_threshold:
        scores = without_small(scores, config.area_threshold)
    if text.background and config.background in ("threshold", "both"):
        scores[0].clamp_(min=float(config.threshold or 0))
    return scores.clamp_(0, 1)


def without_small(scores: Tensor, share: float) -> Tensor:
    """Return scores (C + 1, h, w), 0 for classes that win no more than `share` of the cells that classes 1..C win.

    Their cells go to whoever is next there (SCLIP's released code, on VOC).
    """
    won = scores.argmax(0).flatten().bincount(minlength=len(scores))[1:]
    scores[1:] *= (won > share * won.sum())[:, None, None]
    return scores


def _cosines(embeddings: Tensor, vectors: Tensor) -> Tensor:
    """Return (B, Q, h, w) of embeddings (B, E, h, w) and unit vectors (Q, E)."""
    unit = F.normalize(embeddings.float(), dim=1)
    return (vectors @ unit.flatten(2)).unflatten(-1, embeddings.shape[-2:])


def refined_windows(scores: Tensor, parts: Tensor, config: WordsConfig) -> Tensor:
    """Return scores (M, K, h, w) of windows, each refined by the colours of its own of `parts` (M, 3, H', W')."""
    colours = F.interpolate(parts, scores.shape[-2:], mode="bilinear", align_corners=True)
    return torch.stack([pamr(one, maps, config.dilations, config.iterations)
                        for one, maps in zip(colours, scores, strict=True)])


def on_grid(picture: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the picture (3, H, W) at the size `grid`."""
    if tuple(picture.shape[1:]) == tuple(grid):
        return picture
    return F.interpolate(picture[None], grid, mode="bilinear", align_corners=False, antialias=True)[0]


def grid_of(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return (h, w): an image's `size` by `stride`, rounded up; 0 is the least stride that gives up to a megapixel."""
    for step in (stride,) if stride else count(1):
        grid = (-(-size[0] // step), -(-size[1] // step))
        if stride or grid[0] * grid[1] <= _MOST_CELLS:
            break
    return grid
