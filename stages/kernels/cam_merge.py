"""Class activation maps of several scales and of the mirrored image, merged on one grid.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN, CVPR
2019): the maps of all scales are summed and each class is divided by its maximum.

Where a cell of a map lies is read in two ways.

`cells`: as IRN does it, the whole map is stretched over the whole image, as if cell i covered pixels
i * stride to (i + 1) * stride. `centres`: as stride-2 convolutions with padding 1 make it, cell i is centred on
pixel i * stride of the scaled image; networks that cut it into patches have another first centre. The two differ by
up to half a cell (7.5 pixels at stride 16).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.kernels.resample import interpolation_matrix, resample

ALIGNMENTS = ("cells", "centres")
SMALLEST_MAXIMUM = 1e-5


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the (H, W) of an image resized by `scale`: rounded, at least one pixel (IRN's rounding)."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def merge_scales(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    scales: Sequence[float],
    grid_stride: int = 4,
    stride: int = 16,
    alignment: str = "centres",
    first_centre: float = 0.0,
    mirrored: Sequence[bool] | None = None,
    members: Sequence[int] | None = None,
) -> tuple[Tensor, tuple[int, int]]:
    """Return the merged map (K, h, w) in [0, 1], h = ceil(H / grid_stride), and the pixels that it `covers`.

    `maps` are float32 (K, h_s, w_s), after ReLU and flipped back; `scales` gives the scale of each, `mirrored`
    whether it was computed on the mirrored image (its cells then count from the right edge, which moves them
    by (W_s - 1) mod stride pixels; IRN leaves that out, and so does "cells"). `size` is the image's (H, W).
    Maps are summed, then each class is divided by its maximum + 1e-5; a map of zeros stays so. With `members` (K,)
    every class has so many successive maps, which are summed over the scales one by one; the class is the largest of
    them at each place, so that they are divided by their joint maximum (SC-CAM, released code). None are zeros.

    Under "centres" `covers` is grid_stride * (h, w): cell j was sampled at pixel (j + .5) * grid_stride - .5, so
    readers place it exactly. Under "cells" it is stride * ceil(size / stride), because IRN's full-size maps
    (`merge_full_size`), which it evaluates, are stretched so: readers then get those maps but for the coarser
    grid. As places in the photograph they are off by 7.4 pixels per axis (mean over sizes of 200 to 500 pixels
    and scales .5 to 2; grid_stride * (h, w) would be off by 5.0): "centres" is the cure for that.
    Raises ValueError for an unknown alignment and for lists of different length, RuntimeError for `members` that
    are not all maps. `first_centre` is the pixel of the scaled image that the first cell is centred on.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment {alignment!r} is not one of {', '.join(ALIGNMENTS)}")
    mirrored = [False] * len(maps) if mirrored is None else mirrored
    grid = _cells(size, grid_stride)
    total = torch.zeros((*maps[0].shape[:1], *grid), dtype=torch.float32, device=maps[0].device)
    for one, scale, flipped in zip(maps, scales, mirrored, strict=True):
        if alignment == "cells":
            total += _stretched(one, grid, grid)
        else:
            total += _centred(one, grid, size, scaled_size(size, scale), grid_stride, stride, first_centre, flipped)
    if members is not None:
        total = _largest(total, members)
    span, cells = (stride, _cells(size, stride)) if alignment == "cells" else (grid_stride, grid)
    return _normalised(total), (span * cells[0], span * cells[1])


def merge_full_size(maps: Sequence[Tensor], size: tuple[int, int], *, stride: int = 16) -> Tensor:
    """Return IRN's full-size map (K, H, W) in [0, 1] of float32 `maps` (K, h_s, w_s).

    Every map is stretched over stride * ceil(size / stride) pixels and cropped to `size`; then as above.
    """
    rows, columns = _cells(size, stride)
    covers = (stride * rows, stride * columns)
    total = torch.stack([_stretched(one, covers, size) for one in maps]).sum(dim=0)
    return _normalised(total)


def _cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _stretched(one: Tensor, covers: tuple[int, int], size: tuple[int, int]) -> Tensor:
    height, width = one.shape[-2:]
    rows = interpolation_matrix(size[0], height, scale=height / covers[0])
    return resample(one, rows, interpolation_matrix(size[1], width, scale=width / covers[1]))


def _centred(
    one: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    scaled: tuple[int, int],
    grid_stride: int,
    stride: int,
    first_centre: float,
    flipped: bool,
) -> Tensor:
    # Grid cell j is scaled pixel p = (j + .5) * grid_stride * s - .5, with s as rounded, and reads cell
    # (p - c) / stride, c the first centre; of a mirrored image it reads (p + c - (W_s - 1)) / stride + w_s - 1.
    centre = 0.5 - (0.5 + first_centre) / stride
    height, width = one.shape[-2:]
    from_right = width - 1 - (scaled[1] - 1 - 2 * first_centre) / stride if flipped else 0.0
    row_scale = grid_stride * scaled[0] / (size[0] * stride)
    column_scale = grid_stride * scaled[1] / (size[1] * stride)
    rows = interpolation_matrix(grid[0], height, scale=row_scale, offset=centre)
    columns = interpolation_matrix(grid[1], width, scale=column_scale, offset=centre + from_right)
    return resample(one, rows, columns)


def _largest(total: Tensor, members: Sequence[int]) -> Tensor:
    found = total.new_zeros((len(members), *total.shape[1:]))
    for place, maps in enumerate(total.split(list(members)) if len(members) else ()):
        if len(maps):
            found[place] = maps.amax(dim=0)
    return found


def _normalised(total: Tensor) -> Tensor:
    return total / (total.amax(dim=(-2, -1), keepdim=True) + SMALLEST_MAXIMUM)
