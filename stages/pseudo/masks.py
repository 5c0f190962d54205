"""Maps to a pseudo mask and its confidence."""

from __future__ import annotations

import numpy as np

from stages.kernels.background import Background, confidence_of_maps, mask_of_maps, mask_of_rows


def pseudo_mask(cam: np.ndarray, class_ids: np.ndarray, background: Background | None, *, n_classes: int,
                min_confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (mask (H, W) uint8 or uint16, confidence (H, W) uint8 with 255 = 1.0) of maps (L, H, W) in [0, 1].

    With `background` None the rows compete directly (posteriors: the confidence is the winner's), else it
    competes with the K foreground rows and the confidence is CLIP-ES's eq. 8. Pixels of less than
    `min_confidence` become 255 (65535 in 16-bit masks), which is eq. 9 as a mask.
    """
    dtype = np.uint8 if n_classes <= 254 else np.uint16
    ignore = int(np.iinfo(dtype).max)
    if background is None:
        mask, confidence = mask_of_rows(cam, class_ids), cam.max(axis=0)
    else:
        mask, confidence = mask_of_maps(cam, class_ids, background, ignore), confidence_of_maps(cam)
    mask[confidence < min_confidence] = ignore
    return mask.astype(dtype), np.round(confidence * 255).clip(0, 255).astype(np.uint8)
