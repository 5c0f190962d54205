"""Fused scores of a segmentation network over scales and mirrored images, and the mask that they give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_crf import CRF_PRESETS, dense_crf, unary_from_scores
from stages.kernels.finite import infinite_to_nan
from stages.kernels.resample import upsample, upsample_in_bands

# A class that scores less than this everywhere can't win a pixel in ten mean-field steps; leaving it out saves time.
_MIN_SCORE_FOR_CRF = 0.05


@torch.inference_mode()
def compute_fused_scores(net: torch.nn.Module, views: Sequence[Tensor], grid: tuple[int, int], *, flip: bool,
                         fusion: str, has_background: bool) -> Tensor:
    """Return the scores (B, C+1, h, w) float32 in [0, 1] on `grid` (h, w), fused over scales and mirrored images.

    The logits are resized to the grid before the softmax, as in the loss. Without a background its channel is left out
    of the softmax.
    """
    total: Tensor | None = None
    num_fused = 0
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            logits = infinite_to_nan(net(view.flip(-1) if mirrored else view).float())
            logits = logits.flip(-1) if mirrored else logits
            logits = F.interpolate(logits, size=grid, mode="bilinear", align_corners=False)
            if not has_background:
                logits[:, 0] = -torch.inf
            scores = logits.softmax(dim=1)
            if total is None:
                total = scores
            else:
                total = torch.maximum(total, scores) if fusion == "max" else total + scores
            num_fused += 1
    return total if fusion == "max" else total / num_fused


def build_mask(scores: np.ndarray, size: tuple[int, int], *, image: np.ndarray | None = None,
               crf: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return (mask (H, W), confidence (H, W) uint8 with 255 = 1.0) of scores (C+1, h, w) in [0, 1].

    The scores are upsampled bilinearly to `size`. With `crf`, the name of a preset, they are refined by a dense CRF on
    `image` (H', W', 3), which may be reduced, over the classes that score 0.05 or more at some pixel.
    """
    ids, dtype = np.arange(len(scores)), np.uint8 if len(scores) <= 255 else np.uint16
    if crf and image is not None:
        scores, ids = _refine_scores(scores, image, crf)
    mask, confidence = np.empty(size, dtype), np.empty(size, np.uint8)
    for band, rows in upsample_in_bands(scores, size, size):
        mask[band] = ids[rows.argmax(axis=0)]
        confidence[band] = np.round(rows.max(axis=0) * 255).clip(0, 255)
    return mask, confidence


def _refine_scores(scores: np.ndarray, image: np.ndarray, crf: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the CRF posteriors (L, H', W') of the classes that can win a pixel, and the ids (L,) of these classes."""
    size = (image.shape[0], image.shape[1])
    rows = upsample(scores.astype(np.float32), size, size)
    ids = np.flatnonzero(rows.max(axis=(1, 2)) >= _MIN_SCORE_FOR_CRF)
    return dense_crf(image, unary_from_scores(rows[ids]), CRF_PRESETS[crf]), ids
