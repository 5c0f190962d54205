"""Decode images from bytes, and reject those that cannot be used with a one-line reason."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stages.data.image_formats import explain_missing_decoder, select_formats
from stages.data.image_size import compute_reduced_size, reduce_image
from stages.errors import BadData
from stages.shards.schema import MAX_PIXELS

SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
EXIF_ORIENTATION_TAG = 0x0112
_MODES = {"1": "1 bit per pixel", "P": "a palette", "CMYK": "CMYK colours"}
REPLACE_REMEDY = "Replace the file, or remove it from the list"
_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image file: stored size in pixels, EXIF orientation 1..8, Pillow's mode.

    `notes` are what decoding changes, each the end of a sentence about images, such as "have transparency, which
    is dropped".
    """

    height: int
    width: int
    orientation: int
    mode: str
    notes: tuple[str, ...]


def read_header(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of an encoded image without decoding pixels.

    Sizes are along the stored axes: the EXIF orientation is reported, not applied.
    Raises BadData if the data are not an image, are animated, or have more than `max_pixels`.
    """
    with open_image(data, where=where, max_pixels=max_pixels) as image:
        return read_open_header(image)


def read_open_header(image: Image.Image) -> ImageHeader:
    """Return the header of an opened image whose pixels have not been decoded yet."""
    height, width = stored_size(image)
    return ImageHeader(height, width, _read_orientation(image), image.mode, _describe_conversions(image))


def decode_image(
    data: bytes, *, where: str, max_pixels: int = MAX_PIXELS, apply_exif: bool = False, max_side: int = 0
) -> np.ndarray:
    """Decode an RGB image (H, W, 3), uint8, along its stored axes or, with `apply_exif`, in its EXIF orientation.

    Accepts CMYK, grey, palette, 1-bit and alpha (dropped). 16-bit grey is divided by 257, so that 65535 becomes 255
    (Pillow's own conversion saturates above 255). An image larger than `max_side` (0: no limit) is reduced to
    `compute_reduced_size`, a JPEG already by its decoder. Raises BadData as `read_header` does, and for truncated files
    and 32-bit pixels.
    """
    return decode_image_with_header(data, where=where, max_pixels=max_pixels, apply_exif=apply_exif,
                                    max_side=max_side)[0]


def decode_image_with_header(
    data: bytes, *, where: str, max_pixels: int = MAX_PIXELS, apply_exif: bool = False, max_side: int = 0
) -> tuple[np.ndarray, ImageHeader]:
    """Decode an image and return its header too; see `decode_image` and `read_header`."""
    header = read_header(data, where=where, max_pixels=max_pixels)
    size = (header.height, header.width)
    reduced = compute_reduced_size(size, max_side)
    with open_image(data, where=where, max_pixels=max_pixels) as image:
        if reduced != size:
            # A JPEG decoder computes an image of 1/2, 1/4 or 1/8 of the size from a part of its coefficients: for 50
            # megapixels 0.2 instead of 0.6 s and 6 instead of 200 MB. Other formats ignore the request.
            image.draft("RGB", reduced[::-1])
        stored = _convert_to_rgb(load_pixels(image, where), where, reduced if image.format != "TIFF" else None)
        stored = restore_stored_axes(stored, image, header.orientation)
    if stored.shape[:2] != reduced:
        stored = np.asarray(reduce_image(Image.fromarray(stored), reduced))
    return (apply_orientation(stored, header.orientation) if apply_exif else stored), header


def check_image(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Return the header of an image that `decode_image` can decode; raise BadData as it does for any other.

    Decodes the pixels without keeping them. A JPEG is decoded at an eighth of its size, which needs a fraction of the
    time and 1/64 of the memory: all of its data are still read, and of 5,760 files that were cut, overwritten or
    shortened at random places the same ones were rejected, with the same reason.
    """
    with open_image(data, where=where, max_pixels=max_pixels) as image:
        header = read_open_header(image)
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        load_pixels(image, where)
        _check_bits_per_pixel(image, where)
        if image.mode not in ("I", *SIXTEEN_BIT_MODES):
            _read_or_reject(lambda: image.crop((0, 0, 1, 1)).convert("RGB"), where)
    return header


def encode_png(array: np.ndarray) -> bytes:
    """Encode an image, (H, W, 3) or (H, W) uint8, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def open_image(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open encoded bytes without decoding them. Raises BadData if they are not an image, animated or too large."""
    try:
        # Pillow warns or raises at its own limit; `max_pixels` is checked below instead.
        with _pillow_limit_lock:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(io.BytesIO(data), formats=select_formats(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except Exception as error:  # Pillow's decoders raise any type of exception for a damaged header
        reason, remedy = explain_missing_decoder(data) or (_describe_non_image(data), REPLACE_REMEDY)
        raise BadData(reason, remedy, where=where) from error
    with image:
        height, width = stored_size(image)
        if height * width > max_pixels:
            raise BadData(
                f"the image has {height}x{width} = {height * width} pixels, more than the limit of {max_pixels}",
                "Shrink it, or run `wsss index` with a larger --max-pixels",
                where=where,
            )
        # Cameras store a preview as the second image of an MPO file, which is not an animation.
        if image.format != "MPO" and _read_or_reject(lambda: getattr(image, "is_animated", False), where):
            raise BadData(f"the {image.format} file has several frames", "Save each frame as an image of its own",
                          where=where)
        yield image


def load_pixels(image: Image.Image, where: str) -> Image.Image:
    """Decode the pixels of an opened image. Raises BadData if that fails, as for a truncated file."""
    _read_or_reject(image.load, where)
    # Pillow would warn about a palette's transparency; alpha is dropped anyway.
    image.info.pop("transparency", None)
    return image


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) along the stored axes; for TIFF, Pillow itself returns the size after orientation."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if tags and 256 in tags and 257 in tags:
        return int(tags[257]), int(tags[256])
    return image.height, image.width


def restore_stored_axes(array: np.ndarray, image: Image.Image, orientation: int) -> np.ndarray:
    """Return decoded pixels along their stored axes: undo the orientation, which Pillow applies to TIFF only."""
    if image.format != "TIFF":
        return array
    return apply_orientation(array, {6: 8, 8: 6}.get(orientation, orientation))


def apply_orientation(array: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate or mirror (H, W, ...) pixels so that EXIF `orientation` 1..8 is upright."""
    axes = (1, 0, *range(2, array.ndim))
    views = {
        2: lambda: array[:, ::-1],
        3: lambda: array[::-1, ::-1],
        4: lambda: array[::-1],
        5: lambda: array.transpose(axes),
        6: lambda: array.transpose(axes)[:, ::-1],
        7: lambda: array.transpose(axes)[::-1, ::-1],
        8: lambda: array.transpose(axes)[::-1],
    }
    return np.ascontiguousarray(views[orientation]()) if orientation in views else array


def _read_or_reject(read: Callable[[], object], where: str) -> object:
    """Call one of Pillow's readers and turn whatever it raises into BadData."""
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # mostly OSError, but also SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise BadData(f"the image is damaged ({reason})", REPLACE_REMEDY, where=where) from error


def _describe_non_image(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return f"this is a web page or an XML file, not an image ({len(data)} bytes)"
    return f"this is not an image ({len(data)} bytes)"


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation 1..8; 1 if there is none."""
    # For a PNG without EXIF at the start, Pillow would decode the whole file to look for EXIF at the end.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(EXIF_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block does not mean that the pixels are damaged
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _describe_conversions(image: Image.Image) -> tuple[str, ...]:
    conversions = []
    if image.mode in SIXTEEN_BIT_MODES or image.mode == "I":
        conversions.append("have 16 bits per pixel and are scaled to 8")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        conversions.append("have transparency, which is dropped")
    elif image.mode not in ("RGB", "L"):
        conversions.append(f"have {_MODES.get(image.mode, f'the mode {image.mode}')} and are converted to RGB")
    if image.format == "MPO":
        conversions.append("contain several images, of which the first is used")
    if image.info.get("original_orientation", 1) != 1:  # of HEIF
        conversions.append("are turned upright by the decoder of HEIC, with --apply-exif and without it")
    return tuple(conversions)


def _convert_to_rgb(image: Image.Image, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert decoded pixels to RGB (H, W, 3) uint8, reduced to `size` (H', W') if it is given."""
    # Pillow before version 11 opens PNG and PPM of 16 bits as mode I.
    if image.mode in SIXTEEN_BIT_MODES or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        return _repeat_grey(Image.fromarray(grey), size)
    _check_bits_per_pixel(image, where)
    if size is None:
        return np.array(image.convert("RGB"))
    # Grey and colour pixels are reduced before they are converted, which saves a whole copy. Palette indices and CMYK
    # have to become colours first.
    if image.mode == "L":
        return _repeat_grey(image, size)
    return np.array(reduce_image(image if image.mode == "RGB" else image.convert("RGB"), size))


def _repeat_grey(image: Image.Image, size: tuple[int, int] | None) -> np.ndarray:
    grey = np.asarray(image if size is None else reduce_image(image, size))
    return np.repeat(grey[:, :, None], 3, axis=2)


def _check_bits_per_pixel(image: Image.Image, where: str) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise BadData(f"the pixels have 32 bits (mode {image.mode})", "Save the image with 8 or 16 bits per pixel",
                      where=where)
