"""Photographs from encoded bytes: what is accepted, what is refused, and in one line why."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from stages.errors import BadData
from stages.shards.schema import MAX_PIXELS

# Formats that Pillow decodes by itself; EPS, for one, would start another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION = 0x0112
_MODES = {"1": "1 bit", "P": "a palette", "CMYK": "CMYK colours"}
REPLACE = "replace the file or take it off the list"
_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class ImageHeader:
    """What the header tells: stored size in pixels, EXIF orientation 1..8, Pillow's mode.

    `notes` are what decoding changes, each the end of a sentence on images: "have transparency, which is dropped".
    """

    height: int
    width: int
    orientation: int
    mode: str
    notes: tuple[str, ...]


def read_header(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Return the header of an encoded image; no pixel is decoded.

    Sizes are those of the stored axes: EXIF orientation is told, not applied.
    Raises BadData for what is no image, is animated or is larger than `max_pixels`.
    """
    with opened(data, where=where, max_pixels=max_pixels) as image:
        height, width = stored_size(image)
        return ImageHeader(height, width, _orientation(image), image.mode, _notes(image))


def decode_image(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS, apply_exif: bool = False) -> np.ndarray:
    """Return the RGB image (H, W, 3), uint8, in its stored axes or, with `apply_exif`, turned as EXIF says.

    Accepts CMYK, grey, palette, 1-bit and alpha (dropped); 16-bit grey is divided by 257, so that 65535 is 255
    (Pillow's own conversion saturates above 255). Raises BadData as `read_header` does, for truncated
    files, and for pixels of 32 bits.
    """
    return decode_with_header(data, where=where, max_pixels=max_pixels, apply_exif=apply_exif)[0]


def decode_with_header(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS,
                       apply_exif: bool = False) -> tuple[np.ndarray, ImageHeader]:
    """Return what `decode_image` and `read_header` do."""
    header = read_header(data, where=where, max_pixels=max_pixels)
    with opened(data, where=where, max_pixels=max_pixels) as image:
        stored = unturned(_rgb(loaded(image, where), where), image, header.orientation)
    return (turned(stored, header.orientation) if apply_exif else stored), header


def encode_png(array: np.ndarray) -> bytes:
    """Return the PNG of an image, (H, W, 3) or (H, W) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def opened(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open encoded bytes without decoding them. Raises BadData: no image, animated, or too many pixels."""
    try:
        # Pillow warns or raises at a limit of its own; ours is checked right below instead.
        with _pillow_limit:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except Exception as error:  # Pillow's decoders raise whatever a broken header makes them raise
        raise BadData(_what_it_is(data), REPLACE, where=where) from error
    with image:
        height, width = stored_size(image)
        if height * width > max_pixels:
            raise BadData(
                f"image of {height}x{width} = {height * width} pixels is over the limit of {max_pixels}",
                "shrink it or raise --max-pixels of wsss index",
                where=where,
            )
        # Cameras store a preview as second picture of an MPO: that is no animation.
        if image.format != "MPO" and _attempt(lambda: getattr(image, "is_animated", False), where):
            raise BadData(f"{image.format} with several frames", "give one picture per file", where=where)
        yield image


def loaded(image: Image.Image, where: str) -> Image.Image:
    """Decode the pixels of an opened image. Raises BadData when they can't be, as in a truncated file."""
    _attempt(image.load, where)
    # A palette's transparency would only make Pillow warn; alpha is dropped anyway.
    image.info.pop("transparency", None)
    return image


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) in stored axes; Pillow gives those of a TIFF already turned."""
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    if tags and 256 in tags and 257 in tags:
        return int(tags[257]), int(tags[256])
    return image.height, image.width


def unturned(array: np.ndarray, image: Image.Image, orientation: int) -> np.ndarray:
    """Return decoded pixels in stored axes: Pillow turns a TIFF as its orientation says, and nothing else."""
    if image.format != "TIFF":
        return array
    return turned(array, {6: 8, 8: 6}.get(orientation, orientation))


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, ...) pixels as EXIF `orientation` 1..8 says they should be seen."""
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


def _attempt(read: Callable[[], object], where: str) -> object:
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # OSError mostly, but SyntaxError, struct.error, ... as well
        reason = str(error) or type(error).__name__
        raise BadData(f"broken image ({reason})", REPLACE, where=where) from error


def _what_it_is(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return f"not an image but a web page or XML ({len(data)} bytes)"
    return f"not an image ({len(data)} bytes)"


def _orientation(image: Image.Image) -> int:
    # Asked of a PNG without EXIF in front, Pillow would decode all of it in search of one at the end.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = []
    if image.mode in SIXTEEN_BIT or image.mode == "I":
        notes.append("have 16 bits, scaled to 8")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        notes.append("have transparency, which is dropped")
    elif image.mode not in ("RGB", "L"):
        notes.append(f"have {_MODES.get(image.mode, f'the mode {image.mode}')}, converted to RGB")
    if image.format == "MPO":
        notes.append("hold several pictures, of which the first is taken")
    return tuple(notes)


def _rgb(image: Image.Image, where: str) -> np.ndarray:
    # Before Pillow 11, PNG and PPM of 16 bits are opened as mode I.
    if image.mode in SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise BadData(f"pixels of 32 bits (mode {image.mode})", "save it with 8 or 16 bits", where=where)
    return np.array(image.convert("RGB"))
