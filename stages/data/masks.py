"""Decode masks of class ids from bytes and encode them; ids are read as stored, without any conversion of colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.data.images import (
    MAX_PIXELS,
    SIXTEEN_BIT_MODES,
    load_pixels,
    open_image,
    read_open_header,
    restore_stored_axes,
    stored_size,
)
from stages.data.label_maps import apply_label_map
from stages.data.matlab_masks import decode_matlab_mask, is_matlab_file
from stages.errors import BadData

LOSSLESS_FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
MAX_8_BIT_CLASS_ID = 254
IGNORE_8_BIT = 255
IGNORE_16_BIT = 65535
_BAND_PIXELS = 1 << 20  # of an RGB mask, converted at once
_SAVE_IDS_REMEDY = "Save the class ids as a palette or grey PNG"


def voc_palette() -> np.ndarray:
    """Return the palette of PASCAL VOC, (256, 3) uint8: bits 0, 1, 2 of an id are the high bits of R, G, B."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def get_ignore_index(num_classes: int) -> int:
    """Return the ignore index of masks with classes 1..C: 255, or 65535 if C > 254."""
    return IGNORE_16_BIT if num_classes > MAX_8_BIT_CLASS_ID else IGNORE_8_BIT


def decode_mask(
    data: bytes,
    *,
    where: str,
    num_classes: int,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    label_map: str = "",
) -> np.ndarray:
    """Decode class ids (H, W): 0 background, 1..C, and `get_ignore_index(C)`; uint8, or uint16 if C > 254.

    Reads palette indices, grey values of 1 to 16 bits as they are, RGB whose colours are all in the VOC palette, and
    SBD's MATLAB files. In a file of 8 bits 255 is ignored, in one of 16 bits 65535 (and 255, unless it is a class).
    With a `label_map`, a name in `LABEL_MAPS`, the values of the file are those of a benchmark.
    Raises BadData for a lossy format, other colours, ids that are not classes, and a size other than `size` = (H, W):
    masks are never resized.
    """
    if is_matlab_file(data):
        ids = decode_matlab_mask(data, where=where, max_pixels=max_pixels)
        _check_size((ids.shape[0], ids.shape[1]), size, where)
        return _convert_ids(ids, num_classes, where)
    with open_image(data, where=where, max_pixels=max_pixels) as image:
        if image.format not in LOSSLESS_FORMATS:
            raise BadData(f"the mask is saved as {image.format}, which changes class ids", "Save it as PNG",
                          where=where)
        _check_size(stored_size(image), size, where)
        orientation = read_open_header(image).orientation
        ids = restore_stored_axes(_read_ids(load_pixels(image, where), data, where), image, orientation)
    if label_map:
        ids = apply_label_map(ids, label_map, where)
    return _convert_ids(ids, num_classes, where)


def encode_mask(mask: np.ndarray) -> bytes:
    """Encode class ids (H, W) as PNG: with the VOC palette if uint8, as 16-bit grey if uint16.

    Raises ValueError for another type.
    """
    if mask.dtype not in (np.uint8, np.uint16) or mask.ndim != 2:
        raise ValueError(f"a mask must be uint8 or uint16 (H, W), not {mask.dtype} {mask.shape}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    if mask.dtype == np.uint8:
        image.putpalette(voc_palette().ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(mask_size: tuple[int, int], size: tuple[int, int] | None, where: str) -> None:
    if size is None or mask_size == tuple(size):
        return
    message = (f"the mask has {mask_size[0]}x{mask_size[1]} pixels (height x width), but its image has "
               f"{size[0]}x{size[1]}")
    remedy = "Use the mask of this image in its original size"
    if mask_size == (size[1], size[0]):
        remedy = "If EXIF rotates the image, run `wsss index` with --apply-exif"
    raise BadData(message, remedy, where=where)


def _read_ids(image: Image.Image, data: bytes, where: str) -> np.ndarray:
    if image.mode in ("P", "1", "I", *SIXTEEN_BIT_MODES):
        return np.asarray(image)
    if image.mode == "L":
        step = _compute_grey_step(image, data)
        return np.asarray(image) if step == 1 else np.asarray(image) // step
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[:, :, 0]
    if image.mode in ("RGB", "RGBA"):
        return _convert_colours(np.asarray(image)[:, :, :3], where)
    raise BadData(f"the mask has the mode {image.mode}, which holds no class ids", _SAVE_IDS_REMEDY, where=where)


def _compute_grey_step(image: Image.Image, data: bytes) -> int:
    """Return the difference between grey levels that encode consecutive ids."""
    # Pillow scales grey PNGs of 2 and 4 bits to 0..255; byte 24 of the file is the bit depth.
    depth = data[24] if image.format == "PNG" else 8
    return 255 // (2**depth - 1) if depth in (2, 4) else 1


def _convert_colours(colours: np.ndarray, where: str) -> np.ndarray:
    """Convert colours (H, W, 3) of the VOC palette to class ids (H, W) uint8, some rows at a time."""
    palette = _pack_colours(voc_palette())
    order = np.argsort(palette)
    ids = np.empty(colours.shape[:2], np.uint8)
    num_rows = max(1, _BAND_PIXELS // colours.shape[1])
    for start in range(0, len(colours), num_rows):
        band = slice(start, start + num_rows)
        packed = _pack_colours(colours[band])
        ids[band] = order[np.searchsorted(palette[order], packed).clip(max=255)]
        is_wrong = palette[ids[band]] != packed
        if is_wrong.any():
            colour = tuple(int(value) for value in colours[band][is_wrong][0])
            raise BadData(f"the RGB mask has the colour {colour}, which is not in the VOC palette", _SAVE_IDS_REMEDY,
                          where=where)
    return ids


def _pack_colours(colours: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) uint8 as one number each, (...) int32."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)


def _convert_ids(ids: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Check that ids are classes or ignored, and convert them to the type and ignore index of `num_classes`."""
    # In 8 bits 255 + 1 is 0, so two passes decide about most masks.
    if ids.dtype == np.uint8 and num_classes <= MAX_8_BIT_CLASS_ID and (ids + np.uint8(1)).max() <= num_classes + 1:
        return np.array(ids)
    ignored = ids == IGNORE_8_BIT if ids.dtype == np.uint8 else ids == IGNORE_16_BIT
    if num_classes < IGNORE_8_BIT:
        ignored |= ids == IGNORE_8_BIT
    wrong_ids = ids[(ids > num_classes) & ~ignored]
    if wrong_ids.size:
        raise BadData(
            f"the mask has the class id {int(wrong_ids.max())}, but the classes are 0..{num_classes} "
            f"(ignored: {get_ignore_index(num_classes)})",
            "Use the class names that the mask was made with",
            where=where,
        )
    mask = ids.astype(np.uint8 if num_classes <= MAX_8_BIT_CLASS_ID else np.uint16)
    mask[ignored] = get_ignore_index(num_classes)
    return mask
