"""Masks of class ids from encoded bytes, and back: ids are read as they are stored, never converted."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from stages.data.images import MAX_PIXELS, SIXTEEN_BIT, loaded, opened, read_header, stored_size, unturned
from stages.data.label_maps import mapped
from stages.data.matlab_masks import decode_matlab, is_matlab
from stages.errors import BadData

LOSSLESS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
LARGEST_8_BIT_CLASS = 254
IGNORE_8_BIT = 255
IGNORE_16_BIT = 65535


def voc_palette() -> np.ndarray:
    """Return the palette of PASCAL VOC, (256, 3) uint8: id bits 0, 1, 2 are the high bits of R, G, B."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return palette


def ignore_id(n_classes: int) -> int:
    """Return the id of ignored pixels in masks of classes 1..C: 255, or 65535 where C > 254."""
    return IGNORE_16_BIT if n_classes > LARGEST_8_BIT_CLASS else IGNORE_8_BIT


def decode_mask(
    data: bytes,
    *,
    where: str,
    n_classes: int,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    label_map: str = "",
) -> np.ndarray:
    """Return class ids (H, W): 0 background, 1..C, and `ignore_id(C)`; uint8, or uint16 where C > 254.

    Reads palette indices, grey values of 1 to 16 bits as they are, and RGB whose colours are all of the VOC
    palette, and SBD's MATLAB files. A file of 8 bits ignores 255, one of 16 bits 65535 (or 255, where that is no
    class). With a `label_map`, a name of `LABEL_MAPS`, the file's values are a benchmark's own.
    Raises BadData for a lossy format, other colours, ids that are no class, and a size other than `size` =
    (H, W): masks are never resized.
    """
    if is_matlab(data):
        ids = decode_matlab(data, where=where, max_pixels=max_pixels)
        _check_size((ids.shape[0], ids.shape[1]), size, where)
        return _checked(ids, n_classes, where)
    orientation = read_header(data, where=where, max_pixels=max_pixels).orientation
    with opened(data, where=where, max_pixels=max_pixels) as image:
        if image.format not in LOSSLESS:
            raise BadData(f"mask saved as {image.format}, which changes ids", "save it as PNG", where=where)
        _check_size(stored_size(image), size, where)
        ids = unturned(_ids(loaded(image, where), data, where), image, orientation)
    if label_map:
        ids = mapped(ids, label_map, where)
    return _checked(ids, n_classes, where)


def encode_mask(mask: np.ndarray) -> bytes:
    """Return the PNG of class ids (H, W): with the VOC palette when uint8, 16-bit grey when uint16.

    Raises ValueError for another type.
    """
    if mask.dtype not in (np.uint8, np.uint16) or mask.ndim != 2:
        raise ValueError(f"a mask is uint8 or uint16 (H, W), not {mask.dtype} {mask.shape}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    if mask.dtype == np.uint8:
        image.putpalette(voc_palette().ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(found: tuple[int, int], size: tuple[int, int] | None, where: str) -> None:
    if size is None or found == tuple(size):
        return
    what = f"mask of {found[0]}x{found[1]} pixels (height x width), its image has {size[0]}x{size[1]}"
    do = "give the mask of this image, unresized"
    if found == (size[1], size[0]):
        do = "if the image is turned by EXIF, index with --apply-exif"
    raise BadData(what, do, where=where)


def _ids(image: Image.Image, data: bytes, where: str) -> np.ndarray:
    if image.mode in ("P", "1", "I", *SIXTEEN_BIT):
        return np.asarray(image)
    if image.mode == "L":
        return np.asarray(image) // _grey_step(image, data)
    if image.mode in ("LA", "PA"):
        return np.asarray(image)[:, :, 0]
    if image.mode in ("RGB", "RGBA"):
        return _ids_of_colours(np.asarray(image)[:, :, :3], where)
    raise BadData(f"mask of mode {image.mode}", "save class ids as palette or grey PNG", where=where)


def _grey_step(image: Image.Image, data: bytes) -> int:
    # Pillow spreads grey PNGs of 2 and 4 bits over 0..255; the depth stands in byte 24 of the file.
    depth = data[24] if image.format == "PNG" else 8
    return 255 // (2**depth - 1) if depth in (2, 4) else 1


def _ids_of_colours(colours: np.ndarray, where: str) -> np.ndarray:
    weights = np.array([65536, 256, 1], dtype=np.int32)
    palette = voc_palette().astype(np.int32) @ weights
    order = np.argsort(palette)
    packed = colours.astype(np.int32) @ weights
    places = np.searchsorted(palette[order], packed).clip(max=255)
    ids = order[places]
    wrong = palette[ids] != packed
    if wrong.any():
        colour = tuple(int(value) for value in colours[wrong][0])
        raise BadData(
            f"RGB mask with colour {colour}, which is not of the VOC palette",
            "save class ids as palette or grey PNG",
            where=where,
        )
    return ids


def _checked(ids: np.ndarray, n_classes: int, where: str) -> np.ndarray:
    ignored = ids == IGNORE_8_BIT if ids.dtype == np.uint8 else ids == IGNORE_16_BIT
    if n_classes < IGNORE_8_BIT:
        ignored |= ids == IGNORE_8_BIT
    wrong = ids[(ids > n_classes) & ~ignored]
    if wrong.size:
        raise BadData(
            f"mask with id {int(wrong.max())}, the classes are 0..{n_classes} ({ignore_id(n_classes)}: ignored)",
            "give the class names that the mask was made with",
            where=where,
        )
    mask = ids.astype(np.uint8 if n_classes <= LARGEST_8_BIT_CLASS else np.uint16)
    mask[ignored] = ignore_id(n_classes)
    return mask
