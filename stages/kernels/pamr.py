"""Pixel-adaptive mask refinement (PAMR): maps averaged over neighbours, weighted by the similarity of their colours.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020), as in its released code. That
code unfolds the neighbours into a tensor of 48 channels by a convolution. Here compiled loops (`pamr_compiled`) read
them from the padded map on a CPU, and on a GPU they are shifted views of it, which are added up in place: the same
numbers without that tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-8


def pamr(image: Tensor, maps: Tensor, dilations: Sequence[int], iterations: int, softness: float = 0.1) -> Tensor:
    """Refine maps (K, H, W) by `iterations` rounds of averaging on `image` (3, H, W) of any value range.

    Returns float32. The neighbours of a pixel are the eight around it at each of the `dilations`, without the pixel
    itself; the border is repeated beyond the image. A constant map stays constant. Raises ValueError if the sizes
    differ and for an empty list of dilations.
    """
    if image.shape[1:] != maps.shape[1:] or not dilations:
        raise ValueError(f"maps {tuple(maps.shape)} must have the size of the image {tuple(image.shape)}, and "
                         f"dilations {tuple(dilations)} must not be empty")
    if not len(maps):
        return maps.float()
    if maps.device.type == "cpu":
        from stages.kernels.pamr_compiled import refine_maps  # imports numba, which takes half a second

        refined_maps = refine_maps(image.detach().float().numpy(), maps.detach().float().numpy(), dilations, iterations,
                                   softness, torch.get_num_threads())
        return torch.from_numpy(refined_maps)
    return refine_by_views(image, maps, dilations, iterations, softness)


def refine_by_views(image: Tensor, maps: Tensor, dilations: Sequence[int], iterations: int, softness: float) -> Tensor:
    """Refine maps (K, H, W) as `pamr` does, with tensor operations that run on every device."""
    weights = compute_affinity(image.float(), dilations, softness)
    source, refined = maps.float(), torch.empty(maps.shape, device=maps.device)
    for _ in range(iterations):
        _average_neighbours(source, weights, dilations, refined)
        source, refined = refined, (torch.empty_like(refined) if source is maps else source)
    return source


def compute_affinity(image: Tensor, dilations: Sequence[int], softness: float = 0.1) -> Tensor:
    """Return the weights (8 n, H, W) of the neighbours at n `dilations`; they sum to 1 for every pixel.

    They are the softmax of minus the mean over the channels of |pixel - neighbour| / (softness x standard deviation).
    The deviation is taken over all taps at all dilations together, and includes the pixel once per dilation.
    """
    size = (int(image.shape[1]), int(image.shape[2]))
    deviation = _compute_deviation(image, dilations).mul_(softness).add_(_EPSILON)
    weights = torch.empty(8 * len(dilations), *size, device=image.device)
    for weight, neighbour in zip(weights, _iterate_neighbours(image, dilations), strict=True):
        torch.mean((image - neighbour).abs_().div_(deviation), dim=0, out=weight)
    return weights.neg_().softmax(dim=0)


def _compute_deviation(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Return the unbiased standard deviation (3, H, W) over 9 taps per dilation.

    It is computed from differences to the pixel, so that no digits are lost.
    """
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    for neighbour in _iterate_neighbours(image, dilations):
        difference = neighbour - image
        total += difference
        squares.addcmul_(difference, difference)
    num_taps = 9 * len(dilations)
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


def _average_neighbours(maps: Tensor, weights: Tensor, dilations: Sequence[int], out: Tensor) -> None:
    """Write the weighted means over the neighbours into `out` (K, H, W)."""
    out.zero_()
    for weight, neighbour in zip(weights, _iterate_neighbours(maps, dilations), strict=True):
        out.addcmul_(neighbour, weight)
