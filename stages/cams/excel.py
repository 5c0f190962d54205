"""ExCEL for a batch of images: raw and refined CAMs of all classes from one forward pass of a frozen CLIP.

Yang et al., Exploring CLIP's Dense Knowledge for Weakly Supervised Semantic Segmentation (CVPR 2025), the maps without
training.

Shapes: B images, K classes of an image (the largest K of the batch where images are stacked), C classes in all, W words
(the C classes, then the background), N patches, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.cams.clip_es import ImageMaps, TextFeatures, score_all_classes
from stages.cams.config import ExcelConfig
from stages.cams.softmax_gradcam import rescale_as_released, rescale_to_unit_range
from stages.kernels.attention_affinity import build_box_masks, refine_with_attention

# The factor of the cosines in the softmax that weighs the words; CLIP's own is 100.
WORD_SCALE = 2.0


class ImageTower(Protocol):
    """An image encoder with a stream of tokens whose attention is calibrated."""

    num_layers: int
    num_heads: int

    def embed_calibrated(self, images: Tensor, *, num_calibrated_blocks: int, num_attention_layers: int = 0,
                         plain_block_weight: float = 1.0) -> Any:
        """Return the token embeddings (B, 1 + N, E), the attention (B, N, N) and the grid of a batch."""


class WordVectors(NamedTuple):
    """Unit vectors of the classes (C, E), of the background (M, E), and of the classes after the shift (C, E).

    `logit_scale` is CLIP's factor of cosines.
    """

    classes: Tensor
    background: Tensor
    shifted: Tensor
    logit_scale: float


@torch.inference_mode()
def compute_cams(tower: ImageTower, images: Tensor, words: WordVectors, config: ExcelConfig,
                 choose_classes: Callable[[int, np.ndarray], np.ndarray]) -> list[ImageMaps]:
    """Compute the CAMs of normalised `images` (B, 3, S, S).

    `choose_classes(position, scores)` returns the class ids of an image, given the scores (C,) of all classes.
    """
    embedded = tower.embed_calibrated(
        images, num_calibrated_blocks=config.calibrated_layers,
        num_attention_layers=0 if config.affinity == "none" else config.attention_layers,
        plain_block_weight=1 / tower.num_heads if config.as_released else 1.0)
    text = TextFeatures(words.classes[None], words.background, words.logit_scale)
    scores = [score_all_classes(embedding, text) for embedding in embedded.tokens[:, 0]]
    ids = [choose_classes(position, image_scores) for position, image_scores in enumerate(scores)]
    maps = gather_class_maps(compute_word_maps(embedded.tokens, words), ids)
    rescale = rescale_as_released if config.as_released else rescale_to_unit_range
    raw = refined = rescale(maps)
    if embedded.attention is not None:
        refined = rescale(refine_maps(maps, embedded.attention, embedded.grid, config))
    return [ImageMaps(class_ids, raw[position, :len(class_ids)].unflatten(-1, embedded.grid),
                      refined[position, :len(class_ids)].unflatten(-1, embedded.grid),
                      scores[position][class_ids.astype(np.int64) - 1])
            for position, class_ids in enumerate(ids)]


def compute_word_maps(tokens: Tensor, words: WordVectors) -> Tensor:
    """Return the maps (B, C, N) in [0, 1] of all classes from token embeddings (B, 1 + N, E), class token first.

    The class token takes part in the rescaling to [0, 1], so the largest value of a map may be below 1. A word whose
    similarity is the same everywhere has the map 0; the released code divides 0 by 0.
    """
    scores = compute_word_scores(normalise_channels(tokens), torch.cat([words.shifted, words.background]))
    scores = scores[..., :len(words.shifted)]
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    span = high - low
    is_flat = span <= 1e-6 * torch.maximum(high.abs(), low.abs())
    maps = (scores - low) / torch.where(is_flat, torch.ones_like(span), span)
    return torch.where(is_flat, torch.zeros_like(maps), maps)[:, 1:].transpose(1, 2)


def normalise_channels(tokens: Tensor) -> Tensor:
    """Divide each channel of token embeddings (B, 1 + N, E) by its norm over the tokens."""
    return F.normalize(tokens, dim=1)


def weigh_words(class_tokens: Tensor, words: Tensor) -> Tensor:
    """Return the weights (B, W) of the words (W, E) in images with normalised class tokens (B, E); their mean is 1."""
    return (WORD_SCALE * class_tokens @ words.T).softmax(-1) * len(words)


def compute_word_scores(tokens: Tensor, words: Tensor) -> Tensor:
    """Return the scores (B, 1 + N, W) of normalised token embeddings (B, 1 + N, E) for the words (W, E).

    These are products, weighted by `weigh_words`, minus their mean over all words: what all words share says nothing
    about a class.
    """
    weighted = tokens @ words.T * weigh_words(tokens[:, 0], words)[:, None]
    return weighted - weighted.mean(-1, keepdim=True)


def gather_class_maps(maps: Tensor, ids: Sequence[np.ndarray]) -> Tensor:
    """Gather from the maps (B, C, N) those of each image's classes, (B, K, N), padded with 0."""
    gathered = maps.new_zeros(len(ids), max(map(len, ids)), maps.shape[-1])
    for position, class_ids in enumerate(ids):
        gathered[position, :len(class_ids)] = maps[position, class_ids.astype(np.int64) - 1]
    return gathered


def refine_maps(maps: Tensor, attention: Tensor, grid: tuple[int, int], config: ExcelConfig) -> Tensor:
    """Return maps (B, K, N) after the products with the affinity of `attention` (B, N, N), not rescaled."""
    boxes, mask = None, "none"
    if config.affinity == "caa" and maps.shape[1]:
        mask = config.effective_box_mask
        boxes = build_box_masks(maps, grid, config.box_threshold, as_released=config.as_released)
    return refine_with_attention(maps, boxes, attention, rounds=config.rounds, steps=config.steps, mask=mask)
