"""Scores of a segmentation network over several scales and the mirrored image, and the mask they make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_crf import PRESETS, dense_crf, unary_from_scores
from stages.kernels.finite import infinite_to_nan
from stages.kernels.resample import upsample, upsampled_bands

# A class that no pixel gives this much can't win one in ten steps of mean field; leaving it out saves its cost.
_LEAST_FOR_CRF = 0.05


@torch.inference_mode()
def fused_scores(net: torch.nn.Module, views: Sequence[Tensor], grid: tuple[int, int], *, flip: bool, fusion: str,
                 has_background: bool) -> Tensor:
    """Return the scores (B, C+1, h, w) float32 in [0, 1] on `grid` (h, w), fused over scales and mirror images.

    Softmax after the logits are resized to the grid, as the loss compares them. Without a background its
    channel is left out of the softmax.
    """
    total: Tensor | None = None
    count = 0
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
            count += 1
    return total if fusion == "max" else total / count


def mask_of_scores(scores: np.ndarray, size: tuple[int, int], *, image: np.ndarray | None = None,
                   crf: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return (mask (H, W), confidence (H, W) uint8 with 255 = 1.0) of scores (C+1, h, w) in [0, 1].

    Upsampled bilinearly to `size`; with `crf` refined on `image` (H, W, 3) by that preset's kernels, over the
    classes that some pixel gives 0.05 or more.
    """
    if crf:
        rows = upsample(scores.astype(np.float32), size, size)
        ids = np.flatnonzero(rows.max(axis=(1, 2)) >= _LEAST_FOR_CRF)
        rows = dense_crf(image, unary_from_scores(rows[ids]), PRESETS[crf])
        best, largest = ids[rows.argmax(axis=0)], rows.max(axis=0)
    else:
        best, largest = np.empty(size, np.int64), np.empty(size, np.float32)
        for place, rows in upsampled_bands(scores, size):
            best[place], largest[place] = rows.argmax(axis=0), rows.max(axis=0)
    mask = best.astype(np.uint8 if len(scores) <= 255 else np.uint16)
    return mask, np.round(largest * 255).clip(0, 255).astype(np.uint8)
