"""Fused scores of a segmentation network over scales and mirrored images, and the mask that they give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_crf import CRF_PRESETS, dense_crf_batch, unary_from_scores
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
    images = [image] if crf and image is not None else []
    return build_masks([scores], [size], images, crf)[0]


def build_masks(scores: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], images: Sequence[np.ndarray] = (),
                crf: str = "", engine: str = "numba", device: str = "cpu") -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (mask, confidence) of each image, as `build_mask` does; without `images` there is no CRF.

    `engine` computes the CRF of all images, on `device` if it is torch.
    """
    dtypes = [np.uint8 if len(rows) <= 255 else np.uint16 for rows in scores]
    rows_and_ids = (_refine_scores(scores, images, crf, engine, device) if images
                    else [(rows, np.arange(len(rows))) for rows in scores])
    return [_select_best(rows, ids, size, dtype)
            for (rows, ids), size, dtype in zip(rows_and_ids, sizes, dtypes, strict=True)]


def _select_best(scores: np.ndarray, ids: np.ndarray, size: tuple[int, int],
                 dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Return the id of the best row of `scores` (L, h, w) and its score, at each pixel of an image of `size`."""
    mask, confidence = np.empty(size, dtype), np.empty(size, np.uint8)
    for band, rows in upsample_in_bands(scores, size, size):
        mask[band] = ids[rows.argmax(axis=0)]
        confidence[band] = np.round(rows.max(axis=0) * 255).clip(0, 255)
    return mask, confidence


def _refine_scores(scores: Sequence[np.ndarray], images: Sequence[np.ndarray], crf: str, engine: str,
                   device: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the CRF posteriors (L, H', W') of the classes that can win a pixel, and the ids (L,) of these classes."""
    unaries, class_ids = [], []
    for image_scores, image in zip(scores, images, strict=True):
        size = (image.shape[0], image.shape[1])
        rows = upsample(image_scores.astype(np.float32), size, size)
        class_ids.append(np.flatnonzero(rows.max(axis=(1, 2)) >= _MIN_SCORE_FOR_CRF))
        unaries.append(unary_from_scores(rows[class_ids[-1]]))
    return list(zip(dense_crf_batch(images, unaries, CRF_PRESETS[crf], engine, device), class_ids, strict=True))
