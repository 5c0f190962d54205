"""Limit the size at which images are computed (`--max-side`), so that memory depends on it and not on the camera."""

from __future__ import annotations

import numpy as np
from PIL import Image


def compute_reduced_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return (H', W'): `size` reduced so that its longer side is `max_side` pixels.

    A size within the limit is returned unchanged, and `max_side` 0 means no limit. The other side is rounded, and is at
    least 1 pixel.
    """
    longer = max(size)
    if not 0 < max_side < longer:
        return size
    height, width = (max(1, round(length * max_side / longer)) for length in size)
    return height, width


def reduce_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Reduce an image of 8 bits per channel to `size` (H', W') with antialiasing (bicubic)."""
    return image if (image.height, image.width) == size else image.resize(size[::-1], Image.Resampling.BICUBIC)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map of ids (H, W) to `size` (H', W'): each pixel takes the id at its centre, since ids have no mean."""
    if labels.shape[:2] == size:
        return labels
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new)
                     for old, new in zip(labels.shape[:2], size, strict=True))
    return labels[rows[:, None], columns]


def scale_covers(covers: tuple[int, int], size: tuple[int, int], new_size: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels that a map covers in an image of `new_size` (H', W'), if it covers `covers` in one of `size`.

    Rounded to whole pixels: off by at most half a pixel, and exact when `covers` or the scale is 1.
    """
    height, width = (round(covered * new / old) for covered, old, new in zip(covers, size, new_size, strict=True))
    return height, width
