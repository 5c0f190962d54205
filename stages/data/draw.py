"""Masks and maps as colours: overlays, heat maps, several CAMs at once, and pictures in a terminal.

Arrays in, arrays or text out. Images are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from stages.data.masks import IGNORE_8_BIT, IGNORE_16_BIT, voc_palette

# Lightness rises evenly in OKLCH (0.22 to 0.95) while the hue turns from blue (275) to yellow (105 degrees),
# so that equal steps of a value look equal, in grey too.
HEAT = np.array([
    (17, 0, 88), (0, 41, 88), (1, 64, 95), (4, 86, 106), (5, 108, 118), (5, 131, 128),
    (7, 155, 132), (4, 181, 124), (86, 202, 107), (150, 218, 95), (205, 232, 87), (255, 244, 101),
], dtype=np.float32)
GREY = np.array((224, 224, 192), dtype=np.float32)  # of ignored pixels: colour 255 of the VOC palette
HATCH = 6  # pixels from one line of the hatching to the next
RAMP = " .:-=+*#%@"
UPPER_HALF_BLOCK = "\u2580"


def class_colours(class_ids: Sequence[int] | np.ndarray, palette: np.ndarray | None = None) -> np.ndarray:
    """Return the colour of each class id, (K, 3) uint8.

    `palette` is (P, 3) uint8, VOC's when None. Ids beyond 254 start over at 1, since 0 is the background's
    colour and 255 that of ignored pixels.
    """
    palette = voc_palette() if palette is None else np.asarray(palette)
    ids = np.asarray(class_ids, dtype=np.int64)
    last = min(len(palette) - 1, IGNORE_8_BIT - 1)
    return palette[np.where(ids > 0, (ids - 1) % last + 1, 0)].astype(np.uint8)


def colour_mask(mask: np.ndarray, palette: np.ndarray | None = None) -> np.ndarray:
    """Return the mask (H, W) of class ids in the colours of `palette` (P, 3), as (H, W, 3) uint8.

    Ignored pixels (255, in 16-bit masks 65535) get the VOC palette's last colour.
    """
    colours = class_colours(mask, palette)
    colours[_ignored(mask)] = GREY.astype(np.uint8)
    return colours


def overlay(image: np.ndarray, mask: np.ndarray, *, alpha: float = 0.55, outline: bool = True) -> np.ndarray:
    """Return the image (H, W, 3) with the classes of `mask` (H, W) blended over it, as (H, W, 3) uint8.

    Classes get `alpha` in [0, 1] of their VOC colour and, with `outline`, a contour of one pixel inside their
    area; ignored pixels are hatched; the background stays as it was, bit for bit. Raises ValueError when the
    sizes differ.
    """
    _check_same_size(image, mask)
    ignored = _ignored(mask)
    shares = np.where(mask > 0, np.float32(alpha), 0)
    colours = class_colours(mask).astype(np.float32)
    shares[ignored], colours[ignored] = 0.4 * alpha, GREY
    shares[ignored & _hatching(mask.shape)] = 0.85
    if outline:
        contour = _contour(mask)
        # Half-way to white: VOC's dark colours would vanish on dark photographs.
        shares[contour], colours[contour] = 1, 127.5 + 0.5 * colours[contour]
    return _blend(image, colours, shares)


def heat(values: np.ndarray) -> np.ndarray:
    """Return values (H, W) in [0, 1] as colours from dark blue over green to yellow, (H, W, 3) uint8.

    Values beyond the range are cut to it; those that aren't numbers become grey.
    """
    values = np.asarray(values, dtype=np.float32)
    missing = np.isnan(values)
    place = np.where(missing, 0, np.clip(values, 0, 1)) * (len(HEAT) - 1)
    low = np.minimum(place.astype(np.int64), len(HEAT) - 2)
    share = (place - low)[..., None]
    colours = HEAT[low] * (1 - share) + HEAT[low + 1] * share
    colours[missing] = 128
    return _as_bytes(colours)


def overlay_heat(image: np.ndarray, values: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """Return the image (H, W, 3) with `alpha` in [0, 1] of the heat colours of `values` (H, W) in [0, 1].

    Raises ValueError when the sizes differ.
    """
    _check_same_size(image, values)
    return _blend(image, heat(values).astype(np.float32), np.full(values.shape, alpha, dtype=np.float32))


def cam_colours(
    cam: np.ndarray, class_ids: Sequence[int] | np.ndarray, *, image: np.ndarray | None = None
) -> np.ndarray:
    """Return all maps of an image at once, `cam` (K, H, W) in [0, 1] of classes (K,), as (H, W, 3) uint8.

    A pixel mixes the VOC colours of its classes by their activations and is as strong as the largest of
    them, over black or over the `image` (H, W, 3) darkened to grey. A row of class 0 is left out. Raises
    ValueError when rows and class ids, or the sizes, differ.
    """
    cam, ids = np.asarray(cam, dtype=np.float32), np.asarray(class_ids, dtype=np.int64)
    if cam.ndim != 3 or len(cam) != len(ids):
        raise ValueError(f"cam of shape {cam.shape} for {len(ids)} class ids")
    base = np.zeros((*cam.shape[1:], 3), dtype=np.float32)
    if image is not None:
        _check_same_size(image, base)
        base += 0.55 * _luminance(image)[..., None]
    activation, colours = np.clip(np.nan_to_num(cam[ids > 0]), 0, 1), class_colours(ids[ids > 0])
    total = activation.sum(axis=0)[..., None]
    mixed = np.tensordot(activation, colours.astype(np.float32), axes=(0, 0)) / np.maximum(total, 1e-6)
    return _blend(base, mixed, activation.max(axis=0, initial=0))


def half_blocks(image: np.ndarray, columns: int, *, colour: bool = True) -> str:
    """Return the image (H, W, 3) as lines of text, `columns` characters wide and half as many high as wide.

    With `colour` each character is an upper half block whose two halves show one pixel each, by 24-bit ANSI
    sequences; without, an ASCII character for the lightness of both. Raises ValueError when `columns` < 1.
    """
    if columns < 1:
        raise ValueError(f"columns {columns} is not positive")
    height, width = image.shape[:2]
    rows = max(1, round(columns * height / width / 2))
    shrunk = Image.fromarray(np.ascontiguousarray(image)).resize((columns, 2 * rows), Image.Resampling.BOX)
    pixels = np.asarray(shrunk)
    lines = _ansi_lines(pixels) if colour else _ascii_lines(pixels)
    return "\n".join(lines)


def _ansi_lines(pixels: np.ndarray) -> list[str]:
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        line, before = [], None
        for pair in zip(upper, lower, strict=True):
            if pair != before:
                (r, g, b), (s, h, c) = pair
                line.append(f"\x1b[38;2;{r};{g};{b};48;2;{s};{h};{c}m")
            line.append(UPPER_HALF_BLOCK)
            before = pair
        lines.append("".join(line) + "\x1b[0m")
    return lines


def _ascii_lines(pixels: np.ndarray) -> list[str]:
    lightness = _luminance(pixels)
    steps = np.rint((lightness[::2] + lightness[1::2]) / 510 * (len(RAMP) - 1)).astype(int)
    return ["".join(RAMP[step] for step in row) for row in steps]


def _ignored(mask: np.ndarray) -> np.ndarray:
    return mask == (IGNORE_16_BIT if mask.dtype == np.uint16 else IGNORE_8_BIT)


def _hatching(size: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows + columns) % HATCH < 2


def _contour(mask: np.ndarray) -> np.ndarray:
    """Return where a pixel of a class touches, by a side, one of another class or of none, (H, W) bool."""
    around = np.pad(mask, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    edges = np.logical_or.reduce([neighbour != mask for neighbour in neighbours])
    return edges & (mask > 0) & ~_ignored(mask)


def _luminance(image: np.ndarray) -> np.ndarray:
    """Return the luma of ITU-R BT.601 in [0, 255], (H, W) float32."""
    return np.asarray(image, dtype=np.float32) @ np.array((0.299, 0.587, 0.114), dtype=np.float32)


def _blend(image: np.ndarray, colours: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the image with the share (H, W) of colours (H, W, 3) in [0, 255]; where it is 0, unchanged."""
    base = np.asarray(image, dtype=np.float32)
    return _as_bytes(base + shares[..., None] * (colours - base))


def _as_bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)


def _check_same_size(image: np.ndarray, other: np.ndarray) -> None:
    if image.shape[:2] != other.shape[:2]:
        raise ValueError(f"image of {image.shape[:2]} pixels (height, width) with a map of {other.shape[:2]}")
