"""Masks of a network of `train-text`, window by window, as in the evaluation of TCL and CoDe.

Cha et al., TCL (CVPR 2023), whose evaluation CoDe follows (thesis, sections 3.5 and 4.1). In each window the network's
masks of all words are refined by PAMR at the stride of the masks, which is 4 for patches of 16; CLIP's own map is mixed
into them afterwards (released code).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from stages.kernels.pamr import pamr
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.text_grounded import TextGroundedNet, mix_clip_masks
from stages.segment.config import GroundedConfig
from stages.segment.dense_text import WordVectors, apply_threshold, refine_windows, resize_to_grid, select_best_words


@torch.inference_mode()
def score_image_by_masks(net: TextGroundedNet, view: Tensor, image: Tensor, windows: SlidingWindows,
                         text: WordVectors, grid: tuple[int, int], config: GroundedConfig,
                         cast: AbstractContextManager) -> Tensor:
    """Return the scores (C + 1, h, w) in [0, 1] of an image on `grid`: for each class the best mask of its words.

    `view` (3, H', W') is the resized, normalised image that is cut into `windows`; `image` (3, H, W) is used by PAMR if
    it refines the mean over windows. All settings of `config` must be resolved; `cast` is the network's autocast.
    """
    crops = windows.crop(view)
    masks = torch.cat([_compute_masks(net, batch, text, config, cast) for batch in crops.split(config.batch_size)])
    blended = windows.blend(masks, grid)
    if config.pamr and config.blend == "cosines":
        blended = pamr(resize_to_grid(image, grid), blended, config.dilations, config.iterations)
    return apply_threshold(select_best_words(blended, text), text, config)


@torch.inference_mode()
def embed_windows(net: TextGroundedNet, cast: AbstractContextManager, windows: Tensor) -> Tensor:
    """Return the learnt embeddings (B, E, 4h, 4w) of `windows` (B, 3, H, W), for softmax scores."""
    with cast:
        return net.segmenter(*net.clip.forward_trunk(windows))


def _compute_masks(net: TextGroundedNet, crops: Tensor, text: WordVectors, config: GroundedConfig,
                   cast: AbstractContextManager) -> Tensor:
    """Return the masks (M, Q, h, w) of crops (M, 3, H', W') for the words."""
    with cast:
        dense, clip_map = net.maps(crops)
    masks = net.masks(dense.float(), text.vectors)
    if config.pamr and config.blend == "scores":
        masks = refine_windows(masks, crops, config)
    clip_vectors = text.vectors if text.clip_vectors is None else text.clip_vectors
    return mix_clip_masks(masks, clip_map.float(), clip_vectors, float(config.knowledge or 0))
