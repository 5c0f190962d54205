"""Create the item of one image of an index: read its file and its mask, and describe them. Runs in threads."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.data.image_source import read_image_bytes
from stages.data.images import check_image
from stages.data.mask_counts import (
    PIXELS_ATTRIBUTE,
    MaskCounts,
    count_classes,
    count_unknown_values,
    encode_counts,
    list_palette_colours,
)
from stages.data.mask_values import MaskValues
from stages.data.masks import UnknownMaskValues, decode_mask_with_palette, encode_mask
from stages.data.records import ImageRecord, Listing
from stages.data.shapes import draw_shapes
from stages.errors import BadData
from stages.index.config import IndexConfig
from stages.shards import Item, encode_strings

# Notes by the value of --apply-exif; they complete the sentence "3 of 40 images ...".
_EXIF_NOTES = {False: "have an EXIF orientation, which is not applied (see --apply-exif)",
               True: "are rotated according to their EXIF orientation"}

_DRAW_REMEDY = "Correct it, or use --no-draw-masks to index the tags without masks"


@dataclass(frozen=True)
class ItemTask:
    """The inputs that the threads which create items share, and the pixels of each mask by image id."""

    listing: Listing
    config: IndexConfig
    mask_values: MaskValues
    mask_counts: dict[str, MaskCounts] = field(default_factory=dict)


def create_item(record: ImageRecord, task: ItemTask) -> tuple[Item, tuple[str, ...]]:
    """Return (the item of an image, notes about the image for the user).

    If the image or its mask is rejected, the item has the reason instead of contents.
    """
    attrs: dict[str, Any] = {"path": record.path}
    datasets: dict[str, np.ndarray] = {}
    if record.labels is not None:
        datasets["labels"] = np.array(record.labels, dtype="<u2")
    if record.captions:
        datasets["captions"] = encode_strings(record.captions)
    if record.mask_path is not None:
        attrs["mask_path"] = record.mask_path
    if record.byte_range is not None:
        attrs["offset"], attrs["bytes"] = record.byte_range
    notes: tuple[str, ...] = ()
    if not task.config.tags_only:
        try:
            notes = _add_image(record, task, attrs, datasets)
        except BadData as error:
            return Item(record.id, error=str(error)), ()
    return Item(record.id, datasets, attrs), notes


def _add_image(record: ImageRecord, task: ItemTask, attrs: dict[str, Any],
               datasets: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Check an image and its mask, add their properties to `attrs` and `datasets`, and return notes for the user.

    Raises BadData if the image or its mask is rejected.
    """
    config, listing = task.config, task.listing
    data = read_image_bytes(listing.root, record.path, record.byte_range) if record.data is None else record.data
    header = check_image(data, where=record.path, max_pixels=config.max_pixels)
    is_turned = config.apply_exif and header.orientation >= 5
    height, width = (header.width, header.height) if is_turned else (header.height, header.width)
    attrs.update(height=height, width=width, bytes=len(data), crc32=zlib.crc32(data))
    if config.pack:
        datasets["image"] = np.frombuffer(data, dtype=np.uint8)
    if record.mask_path is not None:
        mask = read_image_bytes(listing.root, record.mask_path)
        attrs["mask_crc32"] = zlib.crc32(mask)
        attrs[PIXELS_ATTRIBUTE] = _count_mask(record, mask, (height, width), task)
        if config.pack:
            datasets["mask"] = np.frombuffer(mask, dtype=np.uint8)
    elif record.shapes is not None:
        ids = draw_shapes(record.shapes, (height, width), len(listing.classes) - 1, remedy=_DRAW_REMEDY)
        mask = encode_mask(ids)
        attrs["mask_crc32"] = zlib.crc32(mask)
        attrs[PIXELS_ATTRIBUTE] = _count_ids(record, ids, None, task)
        datasets["mask"] = np.frombuffer(mask, dtype=np.uint8)
    return header.notes + ((_EXIF_NOTES[config.apply_exif],) if header.orientation != 1 else ())


def _count_mask(record: ImageRecord, data: bytes, size: tuple[int, int], task: ItemTask) -> np.ndarray:
    """Decode a mask and return the pixels of each class, as an index stores them.

    Raises BadData if the mask is rejected.
    """
    listing, num_classes = task.listing, len(task.listing.classes) - 1
    try:
        ids, palette = decode_mask_with_palette(
            data, where=str(record.mask_path), num_classes=num_classes, size=size, max_pixels=task.config.max_pixels,
            label_map=listing.label_map, mask_values=task.mask_values)
    except UnknownMaskValues as error:
        task.mask_counts[record.id] = count_unknown_values(record.id, record.labels, error)
        raise
    return _count_ids(record, ids, palette, task)


def _count_ids(record: ImageRecord, ids: np.ndarray, palette: np.ndarray | None, task: ItemTask) -> np.ndarray:
    """Return the pixels of each class as an index stores them, and keep them for the comparison with tags."""
    classes = task.listing.classes
    pixels, ignored = count_classes(ids, len(classes) - 1, has_background=bool(classes[0]))
    colours = list_palette_colours(palette, pixels, ignored)
    task.mask_counts[record.id] = MaskCounts(record.id, record.labels, pixels, ignored, palette_colours=colours)
    return encode_counts(pixels, ignored, len(classes) - 1)
