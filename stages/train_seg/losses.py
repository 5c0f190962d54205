"""Losses of a segmentation network on (pseudo) masks."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, mask: Tensor, *, ignore: int) -> Tensor:
    """Return the mean cross entropy of logits (B, C+1, H, W) over the pixels of `mask` (B, H, W) that count."""
    kept = (mask != ignore).sum().clamp(min=1)
    return F.cross_entropy(logits, mask, ignore_index=ignore, reduction="sum") / kept


def balanced_cross_entropy(logits: Tensor, mask: Tensor, *, ignore: int) -> Tensor:
    """Return half the mean cross entropy over background pixels plus half that over all others.

    The balanced seed loss of DSRG (Huang et al., CVPR 2018), which CLIP-ES uses on COCO, with each share's own
    count; a batch without one of the two has only the other's.
    """
    each = F.cross_entropy(logits, mask, ignore_index=ignore, reduction="none")
    background, classes = mask == 0, (mask != 0) & (mask != ignore)
    means = [each[chosen].mean() for chosen in (background, classes) if bool(chosen.any())]
    return sum(means) / 2 if means else each.sum() * 0


LOSSES = {"ce": cross_entropy, "balanced": balanced_cross_entropy, "confidence": cross_entropy,
          "balanced-confidence": balanced_cross_entropy}


def confident(mask: np.ndarray, confidence: np.ndarray, mu: float, ignore: int) -> np.ndarray:
    """Return `mask` (H, W) with `ignore` where `confidence` (H, W) uint8, 255 = 1.0, is below `mu`.

    The confidence-guided loss (CLIP-ES eq. 9): such pixels have no loss. We take the mean over the others, where
    the equation leaves the divisor open.
    """
    chosen = mask.copy()
    chosen[confidence < np.float64(mu) * 255] = ignore
    return chosen


def at_size(logits: Tensor, mask: Tensor) -> Tensor:
    """Return logits (B, C+1, h, w) at the size of `mask`, bilinearly."""
    return F.interpolate(logits.float(), size=mask.shape[-2:], mode="bilinear", align_corners=False)


def small_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `mask` (B, H, W) at `size` by the nearest pixel, as DeepLab-v2 compares at the logits' size."""
    return F.interpolate(mask[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
