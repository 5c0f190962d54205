"""Pixel-adaptive mask refinement (PAMR): maps averaged over neighbours, weighted by the similarity of their colours.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020), as in its released code. That
code unfolds the neighbours into a tensor of 48 channels by a convolution. Here compiled loops (`pamr_compiled`) read
them from the padded map on a CPU, and on a GPU they are shifted views of it, which are added up in place: the same
numbers without that tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-8


class ColourAffinity(NamedTuple):
    """How the colours and the distances of neighbours make the weights of an average.

    The weight is the softmax over the neighbours of minus the mean over the channels of |difference of colours| /
    (softness x standard deviation), plus what `position_weights` (8 n,) add to it, one number per neighbour.
    """

    dilations: tuple[int, ...]
    softness: float
    is_squared: bool = False  # the quotient is squared before its mean over the channels
    includes_pixel: bool = True  # the deviation is also over the pixel itself, once per dilation
    position_weights: np.ndarray | None = None

    @property
    def num_taps(self) -> int:
        """Number of colours of which the deviation is computed."""
        return (9 if self.includes_pixel else 8) * len(self.dilations)


def pamr(image: Tensor, maps: Tensor, dilations: Sequence[int], iterations: int, softness: float = 0.1) -> Tensor:
    """Refine maps (K, H, W) by `iterations` rounds of averaging on `image` (3, H, W) of any value range.

    Returns float32. The neighbours of a pixel are the eight around it at each of the `dilations`, without the pixel
    itself; the border is repeated beyond the image. A constant map stays constant. Raises ValueError if the sizes
    differ and for an empty list of dilations.
    """
    if image.shape[1:] != maps.shape[1:] or not dilations:
        raise ValueError(f"maps {tuple(maps.shape)} must have the size of the image {tuple(image.shape)}, and "
                         f"dilations {tuple(dilations)} must not be empty")
    return average_neighbours(image, maps, ColourAffinity(tuple(dilations), softness), iterations)


def average_neighbours(image: Tensor, maps: Tensor, affinity: ColourAffinity, iterations: int) -> Tensor:
    """Average maps (K, H, W) over the neighbours, weighted by their colours in `image` (3, H, W), in float32."""
    if not len(maps):
        return maps.float()
    if maps.device.type == "cpu":
        from stages.kernels.pamr_compiled import refine_maps  # imports numba, which takes half a second

        refined_maps = refine_maps(image.detach().float().numpy(), maps.detach().float().numpy(), affinity, iterations,
                                   torch.get_num_threads())
        return torch.from_numpy(refined_maps)
    return refine_by_views(image, maps, affinity, iterations)


def refine_by_views(image: Tensor, maps: Tensor, affinity: ColourAffinity, iterations: int) -> Tensor:
    """Average maps (K, H, W) as `average_neighbours` does, with tensor operations that run on every device."""
    weights = compute_affinity(image.float(), affinity)
    source, refined = maps.float(), torch.empty(maps.shape, device=maps.device)
    for _ in range(iterations):
        _average_views(source, weights, affinity.dilations, refined)
        source, refined = refined, (torch.empty_like(refined) if source is maps else source)
    return source


def compute_affinity(image: Tensor, affinity: ColourAffinity) -> Tensor:
    """Return the weights (8 n, H, W) of the neighbours at n dilations on `image` (3, H, W)."""
    scale = _compute_deviation(image, affinity).mul_(affinity.softness).add_(_EPSILON)
    weights = torch.empty(8 * len(affinity.dilations), *image.shape[1:], device=image.device)
    for weight, neighbour in zip(weights, _iterate_neighbours(image, affinity.dilations), strict=True):
        quotient = (image - neighbour).div_(scale)
        torch.mean(quotient.square_() if affinity.is_squared else quotient.abs_(), dim=0, out=weight)
    weights = weights.neg_().softmax(dim=0)
    if affinity.position_weights is not None:
        weights += torch.from_numpy(affinity.position_weights).to(weights.device)[:, None, None]
    return weights


def _compute_deviation(image: Tensor, affinity: ColourAffinity) -> Tensor:
    """Return the unbiased standard deviation (3, H, W) over the taps at all dilations together.

    It is computed from differences to the pixel, so that no digits are lost.
    """
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    for neighbour in _iterate_neighbours(image, affinity.dilations):
        difference = neighbour - image
        total += difference
        squares.addcmul_(difference, difference)
    num_taps = affinity.num_taps
    return squares.addcmul_(total, total, value=-1 / num_taps).clamp_(min=0).div_(num_taps - 1).sqrt_()


def _iterate_neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield the neighbours of all pixels as views (K, H, W): eight per dilation, row by row."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps[None], (reach,) * 4, mode="replicate")[0]
    for down, across in _list_offsets(dilations):
        top, left = reach + down, reach + across
        yield padded[:, top:top + height, left:left + width]


def _list_offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    around = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1) if (down, across) != (0, 0)]
    return [(down * dilation, across * dilation) for dilation in dilations for down, across in around]


def _average_views(maps: Tensor, weights: Tensor, dilations: Sequence[int], out: Tensor) -> None:
    """Write the weighted means over the neighbours into `out` (K, H, W)."""
    out.zero_()
    for weight, neighbour in zip(weights, _iterate_neighbours(maps, dilations), strict=True):
        out.addcmul_(neighbour, weight)
