"""Draw masks and CAMs in colours: overlays, heat maps, the CAMs of all classes at once, and images in a terminal.

Functions take arrays and return arrays or text. Images are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from stages.data.masks import IGNORE_8_BIT, IGNORE_16_BIT, voc_palette

# Lightness rises evenly in OKLCH (0.22 to 0.95) while the hue goes from blue (275) to yellow (105 degrees),
# so that equal steps of a value look equal, also when converted to grey.
HEAT_COLOURS = np.array([
    (17, 0, 88), (0, 41, 88), (1, 64, 95), (4, 86, 106), (5, 108, 118), (5, 131, 128),
    (7, 155, 132), (4, 181, 124), (86, 202, 107), (150, 218, 95), (205, 232, 87), (255, 244, 101),
], dtype=np.float32)
IGNORE_COLOUR = np.array((224, 224, 192), dtype=np.float32)  # colour 255 of the VOC palette
HATCH_SPACING = 6  # pixels from one hatching line to the next
ASCII_RAMP = " .:-=+*#%@"
UPPER_HALF_BLOCK = "\u2580"


def class_colours(class_ids: Sequence[int] | np.ndarray, palette: np.ndarray | None = None) -> np.ndarray:
    """Return the colour of each class id, (K, 3) uint8.

    `palette` is (P, 3) uint8, or None for VOC's. Ids above 254 start again at colour 1, since 0 is the colour of the
    background and 255 that of ignored pixels.
    """
    palette = voc_palette() if palette is None else np.asarray(palette)
    ids = np.asarray(class_ids, dtype=np.int64)
    last = min(len(palette) - 1, IGNORE_8_BIT - 1)
    return palette[np.where(ids > 0, (ids - 1) % last + 1, 0)].astype(np.uint8)


def colour_mask(mask: np.ndarray, palette: np.ndarray | None = None) -> np.ndarray:
    """Colour a mask (H, W) of class ids with `palette` (P, 3); returns (H, W, 3) uint8.

    Ignored pixels (255, in 16-bit masks 65535) get the last colour of the VOC palette.
    """
    colours = class_colours(mask, palette)
    colours[_find_ignored(mask)] = IGNORE_COLOUR.astype(np.uint8)
    return colours


def overlay_mask(image: np.ndarray, mask: np.ndarray, *, alpha: float = 0.55, outline: bool = True) -> np.ndarray:
    """Blend the classes of `mask` (H, W) over the image (H, W, 3); returns (H, W, 3) uint8.

    Classes get their VOC colour with opacity `alpha` in [0, 1] and, with `outline`, a contour of one pixel inside their
    area. Ignored pixels are hatched; background pixels do not change. Raises ValueError if the sizes differ.
    """
    _check_same_size(image, mask)
    ignored = _find_ignored(mask)
    opacity = np.where(mask > 0, np.float32(alpha), 0)
    colours = class_colours(mask).astype(np.float32)
    opacity[ignored], colours[ignored] = 0.4 * alpha, IGNORE_COLOUR
    opacity[ignored & _draw_hatching(mask.shape)] = 0.85
    if outline:
        contour = _find_contour(mask)
        # Half-way to white, since VOC's dark colours are invisible on dark images.
        opacity[contour], colours[contour] = 1, 127.5 + 0.5 * colours[contour]
    return _blend(image, colours, opacity)


def colour_heat_map(values: np.ndarray) -> np.ndarray:
    """Colour values (H, W) in [0, 1] from dark blue over green to yellow; returns (H, W, 3) uint8.

    Values outside the range are clipped; NaN becomes grey.
    """
    values = np.asarray(values, dtype=np.float32)
    missing = np.isnan(values)
    position = np.where(missing, 0, np.clip(values, 0, 1)) * (len(HEAT_COLOURS) - 1)
    low = np.minimum(position.astype(np.int64), len(HEAT_COLOURS) - 2)
    fraction = (position - low)[..., None]
    colours = HEAT_COLOURS[low] * (1 - fraction) + HEAT_COLOURS[low + 1] * fraction
    colours[missing] = 128
    return _round_to_bytes(colours)


def overlay_heat_map(image: np.ndarray, values: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """Blend the heat map of `values` (H, W) in [0, 1] over the image (H, W, 3) with opacity `alpha` in [0, 1].

    Raises ValueError if the sizes differ.
    """
    _check_same_size(image, values)
    return _blend(image, colour_heat_map(values).astype(np.float32), np.full(values.shape, alpha, dtype=np.float32))


def colour_cams(
    cam: np.ndarray, class_ids: Sequence[int] | np.ndarray, *, image: np.ndarray | None = None
) -> np.ndarray:
    """Colour the CAMs of all classes of an image, `cam` (K, H, W) in [0, 1] of classes (K,), as one (H, W, 3) uint8.

    Each pixel mixes the VOC colours of its classes weighted by activation. Its opacity is the largest activation,
    over black or over the `image` (H, W, 3) darkened to grey. A row of class 0 is not drawn. Raises ValueError if the
    number of rows differs from the number of class ids, or the sizes differ.
    """
    cam, ids = np.asarray(cam, dtype=np.float32), np.asarray(class_ids, dtype=np.int64)
    if cam.ndim != 3 or len(cam) != len(ids):
        raise ValueError(f"CAMs of shape {cam.shape} do not fit {len(ids)} class ids")
    base = np.zeros((*cam.shape[1:], 3), dtype=np.float32)
    if image is not None:
        _check_same_size(image, base)
        base += 0.55 * _compute_luma(image)[..., None]
    activation, colours = np.clip(np.nan_to_num(cam[ids > 0]), 0, 1), class_colours(ids[ids > 0])
    total = activation.sum(axis=0)[..., None]
    mixed = np.tensordot(activation, colours.astype(np.float32), axes=(0, 0)) / np.maximum(total, 1e-6)
    return _blend(base, mixed, activation.max(axis=0, initial=0))


def render_half_blocks(image: np.ndarray, columns: int, *, colour: bool = True) -> str:
    """Render the image (H, W, 3) as lines of text, `columns` characters wide, for characters twice as high as wide.

    With `colour` each character is an upper half block whose two halves show one pixel each, by 24-bit ANSI sequences;
    without, it is an ASCII character for the lightness of both pixels. Raises ValueError if `columns` < 1.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}, but must be positive")
    height, width = image.shape[:2]
    num_lines = max(1, round(columns * height / width / 2))
    resized = Image.fromarray(np.ascontiguousarray(image)).resize((columns, 2 * num_lines), Image.Resampling.BOX)
    pixels = np.asarray(resized)
    lines = _render_ansi_lines(pixels) if colour else _render_ascii_lines(pixels)
    return "\n".join(lines)


def _render_ansi_lines(pixels: np.ndarray) -> list[str]:
    lines = []
    for upper_row, lower_row in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        line, previous = [], None
        for pair in zip(upper_row, lower_row, strict=True):
            if pair != previous:
                upper, lower = (";".join(map(str, pixel)) for pixel in pair)
                line.append(f"\x1b[38;2;{upper};48;2;{lower}m")
            line.append(UPPER_HALF_BLOCK)
            previous = pair
        lines.append("".join(line) + "\x1b[0m")
    return lines


def _render_ascii_lines(pixels: np.ndarray) -> list[str]:
    luma = _compute_luma(pixels)
    steps = np.rint((luma[::2] + luma[1::2]) / 510 * (len(ASCII_RAMP) - 1)).astype(int)
    return ["".join(ASCII_RAMP[step] for step in row) for row in steps]


def _find_ignored(mask: np.ndarray) -> np.ndarray:
    """Return which pixels of a mask have the ignore index of its type, (H, W) bool."""
    return mask == (IGNORE_16_BIT if mask.dtype == np.uint16 else IGNORE_8_BIT)


def _draw_hatching(size: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows + columns) % HATCH_SPACING < 2


def _find_contour(mask: np.ndarray) -> np.ndarray:
    """Return which pixels of a class have a neighbour, on one of four sides, of another class or none, (H, W) bool."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edges = np.logical_or.reduce([neighbour != mask for neighbour in neighbours])
    return edges & (mask > 0) & ~_find_ignored(mask)


def _compute_luma(image: np.ndarray) -> np.ndarray:
    """Compute the luma of ITU-R BT.601 in [0, 255], (H, W) float32."""
    return np.asarray(image, dtype=np.float32) @ np.array((0.299, 0.587, 0.114), dtype=np.float32)


def _blend(image: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Blend colours (H, W, 3) in [0, 255] over the image with `opacity` (H, W); where that is 0, nothing changes."""
    base = np.asarray(image, dtype=np.float32)
    return _round_to_bytes(base + opacity[..., None] * (colours - base))


def _round_to_bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)


def _check_same_size(image: np.ndarray, other: np.ndarray) -> None:
    if image.shape[:2] != other.shape[:2]:
        raise ValueError(f"the image is {image.shape[:2]} pixels (height, width), but the map is {other.shape[:2]}")
