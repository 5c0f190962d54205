"""Draw maps of values in [0, 1] as heat: over a photograph, as a colour bar, or as colours alone.

A photograph under heat is turned to grey and compressed to dark tones, so that heat is visible on every photograph: a
value of 0.5 or more has a CIELAB lightness of at least 45, the photograph at most 31. Since lightness rises with the
value, that also holds for a print in grey and for colour-blind readers. Images are (H, W, 3) uint8.
"""

from __future__ import annotations

import numpy as np

# Lightness rises evenly in OKLCH (0.22 to 0.95) while the hue goes from blue (275) to yellow (105 degrees),
# so that equal steps of a value look equal, also when converted to grey.
HEAT_COLOURS = np.array([
    (17, 0, 88), (0, 41, 88), (1, 64, 95), (4, 86, 106), (5, 108, 118), (5, 131, 128),
    (7, 155, 132), (4, 181, 124), (86, 202, 107), (150, 218, 95), (205, 232, 87), (255, 244, 101),
], dtype=np.float32)
MISSING_COLOUR = (128, 128, 128)
BACKDROP_RANGE = (18.0, 72.0)  # grey values of black and white under heat: CIELAB lightness 5 to 31
_MIN_BRIGHTEST, _MAX_GAIN = 128.0, 4.0  # the 99th percentile of grey values, and how much darker images are brightened
MAX_OPACITY = 0.92
FULL_OPACITY_VALUE = 0.5  # heat has its full opacity from this value on; a contour is drawn here
CONTOUR_COLOUR, CONTOUR_OPACITY = 255.0, 0.8
FAINTEST, CONFIDENT_SCORE = 0.16, 0.5


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
    colours[missing] = MISSING_COLOUR
    return round_to_bytes(colours)


def overlay_heat_map(image: np.ndarray, values: np.ndarray, score: float | None = None) -> np.ndarray:
    """Draw values (H, W) in [0, 1] as heat over the image, with a contour where they reach 0.5.

    The heat of a class with a `score` in [0, 1] near 0 is faint, since maps are normalised: a class that the image does
    not show also reaches 1 somewhere. None means that the score is unknown. Raises ValueError if the sizes differ.
    """
    check_same_size(image, values)
    values = np.clip(np.nan_to_num(np.asarray(values, dtype=np.float32)), 0, 1)
    strength = compute_strength(score)
    opacity = compute_opacity(values) * strength
    drawn = blend(draw_backdrop(image), colour_heat_map(values).astype(np.float32), opacity)
    contour = find_inner_border(values >= FULL_OPACITY_VALUE)
    white = np.full(image.shape, CONTOUR_COLOUR, dtype=np.float32)
    return blend(drawn, white, contour * np.float32(CONTOUR_OPACITY * strength))


def draw_backdrop(image: np.ndarray) -> np.ndarray:
    """Return the image as it is drawn under heat: grey and dark, (H, W, 3) uint8.

    A photograph at night is brightened up to four times, so that something of it remains visible.
    """
    darkest, lightest = BACKDROP_RANGE
    luma = compute_luma(image)
    gain = np.clip(_MIN_BRIGHTEST / max(float(np.percentile(luma, 99)), 1.0), 1.0, _MAX_GAIN)
    grey = darkest + np.minimum(luma * gain, 255) * ((lightest - darkest) / 255)
    return round_to_bytes(np.repeat(grey[..., None], 3, axis=-1))


def draw_colour_bar(width: int, height: int, score: float | None = None) -> np.ndarray:
    """Return a bar (height, width, 3) uint8 of the heat of 0 (left) to 1 (right), as drawn over a grey photograph."""
    values = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    grey = np.full((height, width, 3), 128, dtype=np.uint8)
    opacity = compute_opacity(values) * compute_strength(score)
    return blend(draw_backdrop(grey), colour_heat_map(values).astype(np.float32), opacity)


def compute_opacity(values: np.ndarray) -> np.ndarray:
    """Return the opacity of heat: 0 for a value of 0, rising smoothly to its maximum at 0.5."""
    share = np.clip(values / FULL_OPACITY_VALUE, 0, 1)
    return (MAX_OPACITY * share * share * (3 - 2 * share)).astype(np.float32)


def compute_strength(score: float | None) -> float:
    """Return the factor of the opacity for a score: 0.16 for 0, rising smoothly to 1 at 0.5; 1 if it is unknown."""
    if score is None or not np.isfinite(score):
        return 1.0
    share = min(max(float(score), 0.0) / CONFIDENT_SCORE, 1.0)
    return FAINTEST + (1 - FAINTEST) * share * share * (3 - 2 * share)


def find_inner_border(inside: np.ndarray) -> np.ndarray:
    """Return which True elements of `inside` (H, W) have a False neighbour on one of their four sides."""
    padded = np.pad(inside, 1, mode="edge")
    return inside & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])


def compute_luma(image: np.ndarray) -> np.ndarray:
    """Compute the luma of ITU-R BT.601 in [0, 255], (H, W) float32."""
    return np.asarray(image, dtype=np.float32) @ np.array((0.299, 0.587, 0.114), dtype=np.float32)


def blend(image: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Blend colours (H, W, 3) in [0, 255] over the image with `opacity` (H, W); where that is 0, nothing changes."""
    base = np.asarray(image, dtype=np.float32)
    return round_to_bytes(base + opacity[..., None] * (colours - base))


def round_to_bytes(colours: np.ndarray) -> np.ndarray:
    """Return colours as uint8, rounded and clipped to [0, 255]."""
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)


def check_same_size(image: np.ndarray, other: np.ndarray) -> None:
    """Raise ValueError if an image and a map differ in height or width."""
    if image.shape[:2] != other.shape[:2]:
        raise ValueError(f"the image is {image.shape[:2]} pixels (height, width), but the map is {other.shape[:2]}")
