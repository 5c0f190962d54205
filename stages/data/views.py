"""An image at several scales, as networks take it at inference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from stages.data.augment import normalise
from stages.kernels.cam_merge import scaled_size
from stages.kernels.resample import upsample


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


def corner_views(image: np.ndarray, scales: Sequence[float], mean: Sequence[float],
                 std: Sequence[float]) -> list[np.ndarray]:
    """Return the normalised views (3, H_s, W_s) float32 of an image (H, W, 3) uint8, resized by `resize_to_corners`."""
    view = normalise(image, tuple(mean), tuple(std))
    return [resize_to_corners(view, scale) for scale in scales]


def resize_to_corners(view: np.ndarray, scale: float) -> np.ndarray:
    """Return a normalised image (3, H, W) resized bilinearly by `scale`, its corner pixels kept in the corners.

    Nothing is smoothed, and sizes are cut to whole pixels, 1 at least: the views of MCTformer's released code.
    """
    height, width = (max(1, int(length * scale)) for length in view.shape[1:])
    return F.interpolate(torch.from_numpy(view)[None], size=(height, width), mode="bilinear",
                         align_corners=True)[0].numpy()


def patch_size(size: tuple[int, int], scale: float, cell: int, rounding: str = "up") -> tuple[int, int]:
    """Return (H', W'): an image's `size` times `scale`, each side rounded to a multiple of `cell`.

    `rounding` is to the multiple above (`up`), below (`down`), or to whole pixels alone (`none`: downwards); a side
    is one cell at least.
    """
    unit = 1 if rounding == "none" else cell
    steps = [length * scale / unit for length in size]
    whole = [math.ceil(one - 1e-9) if rounding == "up" else math.floor(one + 1e-9) for one in steps]
    return max(cell, unit * whole[0]), max(cell, unit * whole[1])


def patch_views(image: np.ndarray, scales: Sequence[float], cell: int, mean: Sequence[float],
                std: Sequence[float], rounding: str = "up") -> list[np.ndarray]:
    """Return the normalised views (3, H', W') float32 of an image, resized whole to the sizes of `patch_size`."""
    views = []
    for scale in scales:
        height, width = patch_size(image.shape[:2], scale, cell, rounding)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        views.append(normalise(np.asarray(resized), tuple(mean), tuple(std)))
    return views


def short_side_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """Return (H', W') whose short side is `short`, or whose long side is `long` where it would be longer."""
    factor = min(long / max(size), short / min(size))
    height, width = (max(1, int(length * factor + 0.5)) for length in size)
    return height, width


def short_side_image(image: np.ndarray, short: int, long: int, *, smooth: bool) -> np.ndarray:
    """Return an image (H, W, 3) uint8, resized bilinearly to `short_side_size`.

    Published evaluations (MMSegmentation) don't smooth before they make an image smaller. Below half the size that
    leaves out pixels; with `smooth` none is left out there.
    """
    size = short_side_size(image.shape[:2], short, long)
    if size == image.shape[:2]:
        return image
    if smooth and 2 * size[0] < image.shape[0]:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    maps = upsample(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32), size, size)
    return np.round(maps).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def squashed_view(image: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the normalised view (3, S, S) float32 of an image, resized to a square whatever its shape."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return normalise(np.asarray(resized), tuple(mean), tuple(std))
