"""Pixel-adaptive mask refinement: maps averaged over neighbours, as far as these have the pixel's colour.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020), as its released code
has it. There the neighbours are unfolded into a tensor of 48 channels by a convolution; here they are shifted views of
one padded map, which are added up in place: the same numbers without that tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALLEST = 1e-8
# Cells of the maps that are refined at a time: 21 maps of 448 x 448 take 0.51 s of a core in such bands, which stay in
# its cache, and 1.08 s as a whole. A GPU takes the whole.
_BAND = 1 << 19


def pamr(image: Tensor, maps: Tensor, dilations: Sequence[int], iterations: int, softness: float = 0.1) -> Tensor:
    """Return maps (K, H, W) float32 after `iterations` on `image` (3, H, W), whose scale does not matter.

    The neighbours of a pixel are the eight around it at each of the `dilations`, the border repeated beyond the image,
    without the pixel itself. A map that is the same everywhere stays so. Raises ValueError for other sizes and for no
    dilation.
    """
    if image.shape[1:] != maps.shape[1:] or not dilations:
        raise ValueError(f"maps {tuple(maps.shape)} of an image {tuple(image.shape)}, dilations {tuple(dilations)}")
    if not len(maps):
        return maps.float()
    weights = affinity(image.float(), dilations, softness)
    source, refined = maps.float(), torch.empty(maps.shape, device=maps.device)
    for _ in range(iterations):
        _averaged(source, weights, dilations, refined)
        source, refined = refined, (torch.empty_like(refined) if source is maps else source)
    return source


def affinity(image: Tensor, dilations: Sequence[int], softness: float = 0.1) -> Tensor:
    """Return the weights (8 n, H, W) of the neighbours at n `dilations`, which sum to 1.

    They are the softmax of minus the mean over the colours of |pixel - neighbour| / (softness x deviation). The
    deviation is over all taps at all dilations together, the pixel itself among them once for each.
    """
    size = (int(image.shape[1]), int(image.shape[2]))
    deviation = _deviation(image, dilations).mul_(softness).add_(_SMALLEST)
    weights = torch.empty(8 * len(dilations), *size, device=image.device)
    for weight, neighbour in zip(weights, _neighbours(image, dilations), strict=True):
        torch.mean((image - neighbour).abs_().div_(deviation), dim=0, out=weight)
    return weights.neg_().softmax(dim=0)


def _deviation(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Return the unbiased deviation (3, H, W) over 9 taps at each dilation, from differences: no digits are lost."""
    total, squares = torch.zeros_like(image), torch.zeros_like(image)
    for neighbour in _neighbours(image, dilations):
        difference = neighbour - image
        total += difference
        squares.addcmul_(difference, difference)
    taps = 9 * len(dilations)
    return squares.addcmul_(total, total, value=-1 / taps).clamp_(min=0).div_(taps - 1).sqrt_()


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield the neighbours of all pixels as views (K, H, W): eight for each dilation, row by row."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps[None], (reach,) * 4, mode="replicate")[0]
    for down, across in _offsets(dilations):
        top, left = reach + down, reach + across
        yield padded[:, top:top + height, left:left + width]


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    around = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1) if (down, across) != (0, 0)]
    return [(down * dilation, across * dilation) for dilation in dilations for down, across in around]


def _averaged(maps: Tensor, weights: Tensor, dilations: Sequence[int], out: Tensor) -> None:
    """Write the weighted means over the neighbours into `out` (K, H, W), a band of rows at a time."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    step = max(1, _BAND // (width * len(maps))) if maps.device.type == "cpu" else height
    padded = F.pad(maps[None], (reach,) * 4, mode="replicate")[0]
    for start in range(0, height, step):
        stop = min(start + step, height)
        band = out[:, start:stop].zero_()
        for weight, (down, across) in zip(weights, _offsets(dilations), strict=True):
            rows = slice(reach + start + down, reach + stop + down)
            band.addcmul_(padded[:, rows, reach + across:reach + across + width], weight[start:stop])
