"""An image at several scales, as networks take it at inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from stages.data.augment import normalise
from stages.kernels.cam_merge import scaled_size


def scaled_views(image: np.ndarray, scales: Sequence[float], mean: Sequence[float],
                 std: Sequence[float]) -> list[np.ndarray]:
    """Return the normalised views (3, H_s, W_s) float32 of an image (H, W, 3) uint8, bicubically resized."""
    views = []
    for scale in scales:
        height, width = scaled_size(image.shape[:2], scale)
        resized = image if scale == 1 else np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        views.append(normalise(resized, tuple(mean), tuple(std)))
    return views
