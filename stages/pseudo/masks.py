"""Pseudo mask of an image and its confidence, from CAMs."""

from __future__ import annotations

import numpy as np

from stages.kernels.background import Background, find_best_class, mark_background


def build_pseudo_mask(cam: np.ndarray, class_ids: np.ndarray, background: Background | None, *, num_classes: int,
                      min_confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (mask (H, W) uint8 or uint16, confidence (H, W) uint8 with 255 = 1.0) of CAMs (L, H, W) in [0, 1].

    With `background` None the rows compete directly (posteriors: the confidence is that of the best row). Otherwise
    the background competes with the K foreground rows, and the confidence is max(1 - max_c X, max_c X), eq. 8 of
    CLIP-ES. Pixels with a confidence below `min_confidence` become 255 (65535 in 16-bit masks): eq. 9 as a mask.
    """
    dtype = select_mask_type(num_classes)
    ignore = int(np.iinfo(dtype).max)
    mask, best = find_best_class(cam, class_ids, dtype)
    confidence = best
    if background is not None:
        if len(cam):
            mark_background(mask, best, background, ignore)
        confidence = np.maximum(1 - best, best)
    if min_confidence > 0:
        mask[confidence < min_confidence] = ignore
    return mask, np.round(confidence * 255).clip(0, 255).astype(np.uint8)


def select_mask_type(num_classes: int) -> type:
    """Return the type of masks with classes 1..C and an ignore index: uint8, or uint16 if C > 254."""
    return np.uint8 if num_classes <= 254 else np.uint16
