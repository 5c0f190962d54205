"""Reads the arrays of `cams`, `masks` and `regions` items: CAMs in [0, 1] at the size of the image, checked ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.data.image_size import scale_covers
from stages.errors import BadData
from stages.kernels.interpolation import find_taps, interpolate
from stages.kernels.resample import upsample, upsample_in_bands
from stages.shards import Item, Shard

_CHECKED_VALUES = 1 << 22  # compared at once when CAMs are checked, so that the comparison needs little memory


def resize_to_image(item: Item, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, H, W) float32 in [0, 1], class_ids (L,)) of a `cams` item.

    Upsampled bilinearly to `covers`, then cropped to (H, W). Raises BadData for CAMs that are not finite, and for
    class ids that do not match the rows or, with `num_classes`, are larger than that.
    """
    cam, size, covers = _check_cams(item, num_classes)
    if len(cam) == 0:
        return np.zeros((0, *size), np.float32), item.datasets["class_ids"]
    rows = _convert_to_scores(cam)
    if rows.shape[1:] != size or covers != size:
        rows = upsample(rows, covers, size)
    return rows, item.datasets["class_ids"]


def resize_to_input(item: Item, size: tuple[int, int],
                    num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, H', W') float32 in [0, 1], class_ids (L,)) of a `cams` item for an image reduced to `size`.

    Raises BadData as `resize_to_image` does.
    """
    full_size = read_image_size(item)
    if size == full_size:
        return resize_to_image(item, num_classes)
    cam, _, covers = _check_cams(item, num_classes)
    if len(cam) == 0:
        return np.zeros((0, *size), np.float32), item.datasets["class_ids"]
    down, across = (find_taps(new, length, scale=length * side / (covered * new))
                    for new, length, side, covered in zip(size, cam.shape[1:], full_size, covers, strict=True))
    return interpolate(_convert_to_scores(cam), down, across), item.datasets["class_ids"]


def resize_to_image_in_bands(item: Item, num_classes: int | None = None, *,
                             band: int = 0) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the rows of `resize_to_image` in bands: (slice of H, rows (L, band, W) float32, class_ids (L,)).

    The values are the same, but the memory is that of one band (`band` image rows; 0: about a megabyte) instead of
    4 * L bytes per pixel. Raises BadData as `resize_to_image` does, before the first band.
    """
    cam, size, covers = _check_cams(item, num_classes)
    class_ids = item.datasets["class_ids"]
    if len(cam) == 0:
        yield slice(0, size[0]), np.zeros((0, *size), np.float32), class_ids
        return
    for rows, maps in upsample_in_bands(cam, covers, size, band=band, convert=_convert_to_scores):
        yield rows, maps, class_ids


def read_image_size(item: Item) -> tuple[int, int]:
    """Return (H, W) of the image that a `cams` item belongs to."""
    return int(item.attrs["height"]), int(item.attrs["width"])


def resample_to_cells(item: Item, cell: int, num_classes: int | None = None,
                      input_size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (L, h, w) float32 in [0, 1], class_ids (L,)) of a `cams` item, sampled at the centres of cells.

    Cells are squares of `cell` pixels of the image reduced to `input_size`, including those cut by the border. CAMs
    that already have these cells are returned unchanged, others are interpolated bilinearly. Raises BadData as
    `resize_to_image` does.
    """
    cam, size, covers = _check_cams(item, num_classes)
    if input_size is not None:
        size, covers = input_size, scale_covers(covers, size, input_size)
    height, width = (-(-side // cell) for side in size)
    if len(cam) == 0:
        return np.zeros((0, height, width), np.float32), item.datasets["class_ids"]
    down, across = (find_taps(num_cells, length, scale=length * cell / covered)
                    for num_cells, length, covered in zip((height, width), cam.shape[1:], covers, strict=True))
    return interpolate(_convert_to_scores(cam), down, across), item.datasets["class_ids"]


def _check_cams(item: Item, num_classes: int | None) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """Return (the CAMs (L, h, w) as stored, (H, W), `covers`). Raises BadData."""
    ids, cam = item.datasets["class_ids"], item.datasets["cam"]
    if len(ids) != len(cam) or (num_classes is not None and len(ids) and ids.max() > num_classes):
        raise BadData(f"class_ids {ids.tolist()} do not match the classes and the {len(cam)} CAMs",
                      "Make the CAMs again", where=item.id)
    if not _are_finite(cam):
        raise BadData("the CAMs contain values that are not finite", "Make them again", where=item.id)
    return cam, read_image_size(item), (int(item.attrs["covers"][0]), int(item.attrs["covers"][1]))


def _are_finite(cam: np.ndarray) -> bool:
    if cam.dtype.kind != "f":
        return True
    values = cam.reshape(-1)
    return all(bool(np.isfinite(values[start:start + _CHECKED_VALUES]).all())
               for start in range(0, len(values), _CHECKED_VALUES))


def _convert_to_scores(cam: np.ndarray) -> np.ndarray:
    """Return stored CAMs as float32 in [0, 1]; those of 8 bits are fractions of 255."""
    rows = cam.astype(np.float32)
    if cam.dtype == np.uint8:
        rows /= 255
    return rows


def extract_mask(item: Item, num_classes: int) -> np.ndarray:
    """Return the mask (H, W) of a `masks` item: 0..C, or 255 (65535 in 16 bits). Raises BadData for other values."""
    mask = item.datasets["mask"]
    if mask.max(initial=0) <= num_classes:
        return mask
    invalid = mask[(mask > num_classes) & (mask != np.iinfo(mask.dtype).max)]
    if invalid.size:
        raise BadData(f"the mask contains class {int(invalid.max())}, but the classes are 0..{num_classes}",
                      "Make the masks with the classes of this index", where=item.id)
    return mask


def extract_regions(item: Item) -> np.ndarray:
    """Return the labels (H, W) of the regions of a `regions` item, 0 for none. Raises BadData for negative labels."""
    labels = item.datasets["labels"]
    if labels.ndim != 2 or labels.min(initial=0) < 0:
        raise BadData(f"the regions have the shape {labels.shape} and labels from {labels.min(initial=0)}",
                      "Import them again", where=item.id)
    return labels


def includes_background(shard: Shard) -> bool:
    """Return whether the CAMs of a `cams` shard include a row for the background."""
    return shard.attribute("background") == "included"
