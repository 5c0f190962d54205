"""A `cams` item as its readers see it: rows in [0, 1] at the size of the image."""

from __future__ import annotations

import numpy as np
import torch

from stages.errors import BadData
from stages.kernels.resample import interpolation_matrix, resample, upsample
from stages.shards import Item, Shard


def full_size(item: Item, n_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, H, W) float32 in [0, 1], class_ids (L,)) of a `cams` item.

    Upsampled bilinearly to `covers`, then cropped to (H, W). Raises BadData for a map that is not finite, and
    for class ids that don't fit the rows or, with `n_classes`, are no class.
    """
    rows, size, covers = _checked(item, n_classes)
    if len(rows) == 0:
        return np.zeros((0, *size), np.float32), item.datasets["class_ids"]
    if rows.shape[1:] != size or covers != size:
        rows = upsample(rows, covers, size)
    return rows, item.datasets["class_ids"]


def on_cells(item: Item, cell: int, n_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, h, w) float32 in [0, 1], class_ids (L,)) of a `cams` item, read at the middle of cells.

    Cells are squares of `cell` pixels; those cut by the border count. A map that has these cells comes as it is, any
    other bilinearly. Raises BadData as `full_size` does.
    """
    rows, size, covers = _checked(item, n_classes)
    height, width = (-(-side // cell) for side in size)
    if len(rows) == 0:
        return np.zeros((0, height, width), np.float32), item.datasets["class_ids"]
    down, across = (interpolation_matrix(count, length, scale=length * cell / covered) for count, length, covered
                    in zip((height, width), rows.shape[1:], covers, strict=True))
    return resample(torch.from_numpy(rows), down, across).numpy(), item.datasets["class_ids"]


def _checked(item: Item, n_classes: int | None) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Return (rows (L, h, w) float32 in [0, 1], (H, W), `covers`). Raises BadData."""
    ids = item.datasets["class_ids"]
    if len(ids) != len(item.datasets["cam"]) or (n_classes is not None and len(ids) and ids.max() > n_classes):
        raise BadData(f"class_ids {ids.tolist()} don't fit {len(item.datasets['cam'])} rows and the classes",
                      "make the maps again", where=item.id)
    cam, size = item.datasets["cam"], (int(item.attrs["height"]), int(item.attrs["width"]))
    rows = cam.astype(np.float32)
    if cam.dtype == np.uint8:
        rows /= 255
    if not np.isfinite(rows).all():
        raise BadData("the map holds values that are not finite", "make it again", where=item.id)
    return rows, size, (int(item.attrs["covers"][0]), int(item.attrs["covers"][1]))


def mask_ids(item: Item, n_classes: int) -> np.ndarray:
    """Return the mask (H, W) of a `masks` item: 0..C, or 255 (65535 in 16 bits). Raises BadData for other ids."""
    mask = item.datasets["mask"]
    wrong = mask[(mask > n_classes) & (mask != np.iinfo(mask.dtype).max)]
    if wrong.size:
        raise BadData(f"the mask holds {int(wrong.max())}, the classes are 0..{n_classes}",
                      "make it with the classes of this index", where=item.id)
    return mask


def includes_background(shard: Shard) -> bool:
    """Say whether the rows of a `cams` shard compete directly."""
    return shard.attribute("background") == "included"
