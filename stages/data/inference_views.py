"""Build the views of an image, at one or several scales, that networks take at inference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from stages.data.augment import normalise
from stages.kernels.cam_merge import scale_size
from stages.kernels.resample import upsample


def build_scaled_views(image: np.ndarray, scales: Sequence[float], mean: Sequence[float],
                       std: Sequence[float]) -> list[np.ndarray]:
    """Build normalised views (3, H_s, W_s) float32 of an image (H, W, 3) uint8, one per scale, resized bicubically."""
    views = []
    for scale in scales:
        height, width = scale_size(image.shape[:2], scale)
        resized = image if scale == 1 else np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        views.append(normalise(resized, tuple(mean), tuple(std)))
    return views


def build_corner_aligned_views(image: np.ndarray, scales: Sequence[float], mean: Sequence[float],
                               std: Sequence[float]) -> list[np.ndarray]:
    """Build normalised views (3, H_s, W_s) float32 of an image (H, W, 3) uint8 with `resize_corner_aligned`."""
    view = normalise(image, tuple(mean), tuple(std))
    return [resize_corner_aligned(view, scale) for scale in scales]


def resize_corner_aligned(view: np.ndarray, scale: float) -> np.ndarray:
    """Resize a normalised image (3, H, W) bilinearly by `scale` with aligned corners.

    There is no antialiasing, and sizes are rounded down to whole pixels, at least 1, as in MCTformer's released code.
    """
    height, width = (max(1, int(length * scale)) for length in view.shape[1:])
    return F.interpolate(torch.from_numpy(view)[None], size=(height, width), mode="bilinear",
                         align_corners=True)[0].numpy()


def round_size_to_patches(size: tuple[int, int], scale: float, patch: int, rounding: str = "up") -> tuple[int, int]:
    """Return (H', W'): an image's `size` times `scale`, each side rounded to a multiple of `patch` pixels.

    `rounding` is `up` or `down` to a multiple, or `none`: down to whole pixels. A side is at least one patch.
    """
    unit = 1 if rounding == "none" else patch
    exact_counts = [length * scale / unit for length in size]
    counts = [math.ceil(count - 1e-9) if rounding == "up" else math.floor(count + 1e-9) for count in exact_counts]
    return max(patch, unit * counts[0]), max(patch, unit * counts[1])


def build_patch_aligned_views(image: np.ndarray, scales: Sequence[float], patch: int, mean: Sequence[float],
                              std: Sequence[float], rounding: str = "up") -> list[np.ndarray]:
    """Build normalised views (3, H', W') float32 of an image, resized to the sizes of `round_size_to_patches`."""
    views = []
    for scale in scales:
        height, width = round_size_to_patches(image.shape[:2], scale, patch, rounding)
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        views.append(normalise(np.asarray(resized), tuple(mean), tuple(std)))
    return views


def compute_short_side_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """Return (H', W') whose short side is `short`, or whose long side is `long` if it would be longer than that."""
    factor = min(long / max(size), short / min(size))
    height, width = (max(1, int(length * factor + 0.5)) for length in size)
    return height, width


def resize_short_side(image: np.ndarray, short: int, long: int, *, smooth: bool) -> np.ndarray:
    """Resize an image (H, W, 3) uint8 bilinearly to `compute_short_side_size`.

    Published evaluations (MMSegmentation) do not antialias when they make an image smaller; below half the size this
    skips pixels. With `smooth`, reductions to below half the size are antialiased.
    """
    size = compute_short_side_size(image.shape[:2], short, long)
    if size == image.shape[:2]:
        return image
    if smooth and 2 * size[0] < image.shape[0]:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
    resized = upsample(planes, size, size).numpy()
    return np.round(resized).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def build_square_view(image: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float], *,
                      smooth: bool) -> np.ndarray:
    """Build the normalised view (3, S, S) float32 of an image resized bilinearly to a square.

    There is no antialiasing, as in ExCEL's released code; with `smooth`, an image with a side more than twice as long
    is antialiased.
    """
    view = torch.from_numpy(normalise(image, tuple(mean), tuple(std)))[None]
    antialias = smooth and max(image.shape[:2]) > 2 * side
    return F.interpolate(view, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias)[0].numpy()


def build_squashed_view(image: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Build the normalised view (3, S, S) float32 of an image resized to a square, whatever its aspect ratio."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return normalise(np.asarray(resized), tuple(mean), tuple(std))
