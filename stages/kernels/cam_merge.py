"""Merging of class activation maps of several scales and of the mirrored image on one grid, for `cams cnn`.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN, CVPR
2019): the maps of all scales are summed and each class is divided by its maximum.

There are two conventions (`alignment`) for the position of a map's cells in the image.

`cells`: as in IRN, the whole map is stretched over the whole image, as if cell i covered pixels i * stride to
(i + 1) * stride. `centres`: as stride-2 convolutions with padding 1 compute it, cell i is centred on pixel i * stride
of the scaled image; networks that cut the image into patches have another first centre. The two differ by up to half
a cell (7.5 pixels at stride 16).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.kernels.resample import build_interpolation_matrix, resample

ALIGNMENTS = ("cells", "centres")
MAXIMUM_EPSILON = 1e-5


def scale_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
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
    first_cell_centre: float = 0.0,
    mirrored: Sequence[bool] | None = None,
    maps_per_class: Sequence[int] | None = None,
) -> tuple[Tensor, tuple[int, int]]:
    """Merge maps of several scales. Return the map (K, h, w) in [0, 1], h = ceil(H / grid_stride), and its `covers`.

    `maps` are float32 (K, h_s, w_s), after ReLU and flipped back; `scales` gives the scale of each, `mirrored`
    whether it was computed on the mirrored image (its cells then count from the right edge, which moves them
    by (W_s - 1) mod stride pixels; IRN ignores that, and so does "cells"). `size` is the image's (H, W).
    `first_cell_centre` is the pixel of the scaled image on which the first cell is centred.

    Maps are summed, then each class is divided by its maximum + 1e-5; a map of zeros stays zero. With `maps_per_class`
    (K,) each class has that many consecutive maps, which are summed over the scales separately. The class is their
    maximum at each position, so they are divided by their joint maximum (SC-CAM, released code). A class with no maps
    is zero.

    `covers` are the image pixels that the merged map spans. Under "centres" they are grid_stride * (h, w): cell j was
    sampled at pixel (j + .5) * grid_stride - .5, so readers place it exactly. Under "cells" they are
    stride * ceil(size / stride), because IRN's full-size maps (`merge_full_size`), which it evaluates, are stretched
    that way: readers then get those maps except for the coarser grid. As positions in the image they are off by 7.4
    pixels per axis (mean over sizes of 200 to 500 pixels and scales .5 to 2; grid_stride * (h, w) would be off by
    5.0). Use "centres" to avoid that error.

    Raises ValueError for an unknown alignment and for lists of different lengths, RuntimeError if `maps_per_class`
    does not add up to the number of maps.
    """
    if alignment not in ALIGNMENTS:
        raise ValueError(f"alignment {alignment!r} is not one of {', '.join(ALIGNMENTS)}")
    mirrored = [False] * len(maps) if mirrored is None else mirrored
    grid = _count_cells(size, grid_stride)
    total = torch.zeros((*maps[0].shape[:1], *grid), dtype=torch.float32, device=maps[0].device)
    for scale_maps, scale, is_mirrored in zip(maps, scales, mirrored, strict=True):
        if alignment == "cells":
            total += _stretch_to(scale_maps, grid, grid)
        else:
            total += _sample_by_centres(scale_maps, grid, size, scale_size(size, scale), grid_stride, stride,
                                        first_cell_centre, is_mirrored)
    if maps_per_class is not None:
        total = _take_class_maxima(total, maps_per_class)
    span, cells = (stride, _count_cells(size, stride)) if alignment == "cells" else (grid_stride, grid)
    return _divide_by_maximum(total), (span * cells[0], span * cells[1])


def merge_full_size(maps: Sequence[Tensor], size: tuple[int, int], *, stride: int = 16) -> Tensor:
    """Return IRN's full-size map (K, H, W) in [0, 1] of float32 `maps` (K, h_s, w_s).

    Every map is stretched over stride * ceil(size / stride) pixels and cropped to `size`; then they are summed and
    divided by the maximum as in `merge_scales`.
    """
    rows, columns = _count_cells(size, stride)
    covers = (stride * rows, stride * columns)
    total = torch.stack([_stretch_to(scale_maps, covers, size) for scale_maps in maps]).sum(dim=0)
    return _divide_by_maximum(total)


def _count_cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _stretch_to(maps: Tensor, covers: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize maps to `covers` and crop them to `size`."""
    height, width = maps.shape[-2:]
    rows = build_interpolation_matrix(size[0], height, scale=height / covers[0])
    return resample(maps, rows, build_interpolation_matrix(size[1], width, scale=width / covers[1]))


def _sample_by_centres(
    maps: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    scaled: tuple[int, int],
    grid_stride: int,
    stride: int,
    first_cell_centre: float,
    is_mirrored: bool,
) -> Tensor:
    # Grid cell j is scaled pixel p = (j + .5) * grid_stride * s - .5, with s as rounded, and reads cell
    # (p - c) / stride, c the first centre; of a mirrored image it reads (p + c - (W_s - 1)) / stride + w_s - 1.
    centre = 0.5 - (0.5 + first_cell_centre) / stride
    height, width = maps.shape[-2:]
    from_right = width - 1 - (scaled[1] - 1 - 2 * first_cell_centre) / stride if is_mirrored else 0.0
    row_scale = grid_stride * scaled[0] / (size[0] * stride)
    column_scale = grid_stride * scaled[1] / (size[1] * stride)
    rows = build_interpolation_matrix(grid[0], height, scale=row_scale, offset=centre)
    columns = build_interpolation_matrix(grid[1], width, scale=column_scale, offset=centre + from_right)
    return resample(maps, rows, columns)


def _take_class_maxima(total: Tensor, maps_per_class: Sequence[int]) -> Tensor:
    """Return (K, h, w): for each class the maximum of its consecutive maps, 0 for a class without maps."""
    maxima = total.new_zeros((len(maps_per_class), *total.shape[1:]))
    for index, class_maps in enumerate(total.split(list(maps_per_class)) if len(maps_per_class) else ()):
        if len(class_maps):
            maxima[index] = class_maps.amax(dim=0)
    return maxima


def _divide_by_maximum(total: Tensor) -> Tensor:
    return total / (total.amax(dim=(-2, -1), keepdim=True) + MAXIMUM_EPSILON)
