"""Masks of a net of `train-text`, window by window, as TCL and CoDe are tested.

Cha et al., TCL (CVPR 2023), whose evaluation CoDe takes over (thesis, sections 3.5 and 4.1). In each window the net's
masks of all words are refined by PAMR at their own stride, which is 4 for patches of 16; after that CLIP's own map has
a share in them (released code).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from stages.kernels.pamr import pamr
from stages.kernels.windows import Windows
from stages.nets.text_grounded import TextGrounded, with_knowledge
from stages.segment.config import GroundedConfig
from stages.segment.dense_text import TextSide, best_words, on_grid, refined_windows, with_threshold


@torch.inference_mode()
def mask_scores(net: TextGrounded, view: Tensor, picture: Tensor, windows: Windows, text: TextSide,
                grid: tuple[int, int], config: GroundedConfig, cast: AbstractContextManager) -> Tensor:
    """Return the scores (C + 1, h, w) in [0, 1] of an image on `grid`: of each class the best mask of its words.

    `view` (3, H', W') is the normalised image that `windows` cut up, `picture` (3, H, W) what PAMR looks at where it
    refines the mean over windows. `config` has every setting resolved; `cast` is the network's autocast.
    """
    parts = windows.cut(view)
    masks = torch.cat([_masks(net, some, text, config, cast) for some in parts.split(config.batch_size)])
    blended = windows.blend(masks, grid)
    if config.pamr and config.blend == "cosines":
        blended = pamr(on_grid(picture, grid), blended, config.dilations, config.iterations)
    return with_threshold(best_words(blended, text), text, config)


@torch.inference_mode()
def embed(net: TextGrounded, cast: AbstractContextManager, windows: Tensor) -> Tensor:
    """Return the embeddings (B, E, 4h, 4w) that the net has learnt of `windows` (B, 3, H, W), for scores by softmax."""
    with cast:
        return net.segmenter(*net.clip.trunk(windows))


def _masks(net: TextGrounded, parts: Tensor, text: TextSide, config: GroundedConfig,
           cast: AbstractContextManager) -> Tensor:
    """Return the masks (M, Q, h, w) of windows (M, 3, H', W') for the words."""
    with cast:
        dense, own = net.maps(parts)
    masks = net.masks(dense.float(), text.vectors)
    if config.pamr and config.blend == "scores":
        masks = refined_windows(masks, parts, config)
    kept = text.vectors if text.kept is None else text.kept
    return with_knowledge(masks, own.float(), kept, float(config.knowledge or 0))
