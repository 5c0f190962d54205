"""Pseudo mask of an image and its confidence, from CAMs."""

from __future__ import annotations

import numpy as np

from stages.kernels.background import Background, cams_to_mask, compute_confidence, scores_to_mask


def build_pseudo_mask(cam: np.ndarray, class_ids: np.ndarray, background: Background | None, *, num_classes: int,
                      min_confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (mask (H, W) uint8 or uint16, confidence (H, W) uint8 with 255 = 1.0) of CAMs (L, H, W) in [0, 1].

    With `background` None the rows compete directly (posteriors: the confidence is that of the best row). Otherwise
    the background competes with the K foreground rows, and the confidence is eq. 8 of CLIP-ES. Pixels with a
    confidence below `min_confidence` become 255 (65535 in 16-bit masks): eq. 9 as a mask.
    """
    dtype = np.uint8 if num_classes <= 254 else np.uint16
    ignore = int(np.iinfo(dtype).max)
    if background is None:
        mask, confidence = scores_to_mask(cam, class_ids), cam.max(axis=0)
    else:
        mask, confidence = cams_to_mask(cam, class_ids, background, ignore), compute_confidence(cam)
    mask[confidence < min_confidence] = ignore
    return mask.astype(dtype), np.round(confidence * 255).clip(0, 255).astype(np.uint8)
