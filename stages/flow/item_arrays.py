"""Reads the arrays of `cams` and `masks` items: CAMs in [0, 1] at the size of the image, checked masks."""

from __future__ import annotations

import numpy as np
import torch

from stages.errors import BadData
from stages.kernels.resample import build_interpolation_matrix, resample, upsample
from stages.shards import Item, Shard


def resize_to_image(item: Item, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, H, W) float32 in [0, 1], class_ids (L,)) of a `cams` item.

    Upsampled bilinearly to `covers`, then cropped to (H, W). Raises BadData for CAMs that are not finite, and for
    class ids that do not match the rows or, with `num_classes`, are larger than that.
    """
    rows, size, covers = _read_cams(item, num_classes)
    if len(rows) == 0:
        return np.zeros((0, *size), np.float32), item.datasets["class_ids"]
    if rows.shape[1:] != size or covers != size:
        rows = upsample(rows, covers, size)
    return rows, item.datasets["class_ids"]


def resample_to_cells(item: Item, cell: int, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, h, w) float32 in [0, 1], class_ids (L,)) of a `cams` item, sampled at the centres of cells.

    Cells are squares of `cell` pixels, including those cut by the border. CAMs that already have these cells are
    returned unchanged, others are interpolated bilinearly. Raises BadData as `resize_to_image` does.
    """
    rows, size, covers = _read_cams(item, num_classes)
    height, width = (-(-side // cell) for side in size)
    if len(rows) == 0:
        return np.zeros((0, height, width), np.float32), item.datasets["class_ids"]
    down, across = (build_interpolation_matrix(num_cells, length, scale=length * cell / covered)
                    for num_cells, length, covered in zip((height, width), rows.shape[1:], covers, strict=True))
    return resample(torch.from_numpy(rows), down, across).numpy(), item.datasets["class_ids"]


def _read_cams(item: Item, num_classes: int | None) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Return (rows (L, h, w) float32 in [0, 1], (H, W), `covers`). Raises BadData."""
    ids = item.datasets["class_ids"]
    if len(ids) != len(item.datasets["cam"]) or (num_classes is not None and len(ids) and ids.max() > num_classes):
        raise BadData(f"class_ids {ids.tolist()} do not match the classes and the {len(item.datasets['cam'])} CAMs",
                      "Make the CAMs again", where=item.id)
    cam, size = item.datasets["cam"], (int(item.attrs["height"]), int(item.attrs["width"]))
    rows = cam.astype(np.float32)
    if cam.dtype == np.uint8:
        rows /= 255
    if not np.isfinite(rows).all():
        raise BadData("the CAMs contain values that are not finite", "Make them again", where=item.id)
    return rows, size, (int(item.attrs["covers"][0]), int(item.attrs["covers"][1]))


def extract_mask(item: Item, num_classes: int) -> np.ndarray:
    """Return the mask (H, W) of a `masks` item: 0..C, or 255 (65535 in 16 bits). Raises BadData for other values."""
    mask = item.datasets["mask"]
    invalid = mask[(mask > num_classes) & (mask != np.iinfo(mask.dtype).max)]
    if invalid.size:
        raise BadData(f"the mask contains class {int(invalid.max())}, but the classes are 0..{num_classes}",
                      "Make the masks with the classes of this index", where=item.id)
    return mask


def includes_background(shard: Shard) -> bool:
    """Return whether the CAMs of a `cams` shard include a row for the background."""
    return shard.attribute("background") == "included"
