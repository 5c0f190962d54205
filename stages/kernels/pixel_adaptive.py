"""Pixel-adaptive refinement (PAR): masks averaged over neighbours of similar colour that are also near.

Ru et al., "Learning Affinity from Attention" (CVPR 2022), as in the released code of WeCLIP and ExCEL. It differs from
PAMR (`kernels.pamr`) in three ways: differences of colours are squared, their deviation is over the neighbours without
the pixel, and a weight that depends on the distance only is added. So the weights sum to 1 + `position_weight`, and
masks grow by that factor in each iteration: 1.22 in 20 iterations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.pamr import ColourAffinity, average_neighbours

DILATIONS = (1, 2, 4, 8, 12, 24)
_EPSILON = 1e-8


def apply_par(image: Tensor, masks: Tensor, *, iterations: int = 20, dilations: Sequence[int] = DILATIONS,
              colour_scale: float = 0.3, position_weight: float = 0.01) -> Tensor:
    """Refine masks (N, C, h, w) by `iterations` rounds of averaging on `image` (N, 3, H, W) of any value range.

    Returns (N, C, h, w) float32. The image is resized to the masks. `colour_scale` is the tolerance for differences of
    colours, in standard deviations of the neighbours. Raises ValueError if the number of images and of masks differ,
    and for an empty list of dilations.
    """
    if len(image) != len(masks) or not dilations:
        raise ValueError(f"masks {tuple(masks.shape)} must be of as many images as {tuple(image.shape)}, and dilations "
                         f"{tuple(dilations)} must not be empty")
    affinity = ColourAffinity(tuple(dilations), colour_scale, is_squared=True, includes_pixel=False,
                              position_weights=compute_position_weights(dilations, colour_scale, position_weight))
    colours = resize_image(image, (masks.shape[2], masks.shape[3])).to(masks.device)
    if not len(masks):
        return masks.float()
    return torch.stack([average_neighbours(single, maps, affinity, iterations)
                        for single, maps in zip(colours, masks, strict=True)])


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image (N, 3, H, W) to `size` (h, w) in float32; the corners of both are at the same place.

    It is computed in float64, so that areas of one colour stay exactly that: the refinement divides differences by
    their deviation, and would make edges of the rounding errors of float32.
    """
    if image.shape[2:] == size:
        return image.float()
    return F.interpolate(image.float().double(), size, mode="bilinear", align_corners=True).float()


def compute_position_weights(dilations: Sequence[int], scale: float, position_weight: float) -> np.ndarray:
    """Return what the distances of the neighbours add to their weights, (8 n,) float32; its sum is `position_weight`.

    It is the softmax of minus the square of distance / (scale x the standard deviation of all distances).
    """
    around = [float(np.hypot(down, across)) for down in (-1, 0, 1) for across in (-1, 0, 1) if down or across]
    distances = np.array([dilation * distance for dilation in dilations for distance in around])
    exponents = -(distances / (distances.std(ddof=1) + _EPSILON) / scale) ** 2
    weights = np.exp(exponents - exponents.max())
    return (position_weight * weights / weights.sum()).astype(np.float32)
