"""A `cams` item as its readers see it: rows in [0, 1] at the size of the image."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData
from stages.kernels.resample import upsample
from stages.shards import Item, Shard


def full_size(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, H, W) float32 in [0, 1], class_ids (L,)) of a `cams` item.

    Upsampled bilinearly to `covers`, then cropped to (H, W). Raises BadData for a map that is not finite.
    """
    cam, size = item.datasets["cam"], (int(item.attrs["height"]), int(item.attrs["width"]))
    rows = cam.astype(np.float32)
    if cam.dtype == np.uint8:
        rows /= 255
    if not np.isfinite(rows).all():
        raise BadData("the map holds values that are not finite", "make it again", where=item.id)
    covers = (int(item.attrs["covers"][0]), int(item.attrs["covers"][1]))
    if len(rows) == 0:
        return np.zeros((0, *size), np.float32), item.datasets["class_ids"]
    if rows.shape[1:] != size or covers != size:
        rows = upsample(rows, covers, size)
    return rows, item.datasets["class_ids"]


def includes_background(shard: Shard) -> bool:
    """Say whether the rows of a `cams` shard compete directly."""
    return shard.attribute("background") == "included"
