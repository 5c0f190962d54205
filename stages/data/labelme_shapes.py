"""Draw shapes as LabelMe does: with Pillow, on whole pixels, and with the pixels of the border."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def draw_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W), of a polygon with the corners (n, 2), x and y."""
    canvas = Image.new("L", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners.tolist()], fill=1, outline=1)
    return np.asarray(canvas) > 0


def draw_disc(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels, bool (H, W), of the disc in the square with the corners (4, 2)."""
    canvas = Image.new("L", (size[1], size[0]))
    box = [tuple(corners.min(axis=0).tolist()), tuple(corners.max(axis=0).tolist())]
    ImageDraw.Draw(canvas).ellipse(box, fill=1, outline=1)
    return np.asarray(canvas) > 0


def enclose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the corners of the rectangle between two opposite corners, (8,)."""
    (left, top), (right, bottom) = np.minimum(first, second), np.maximum(first, second)
    return np.array([left, top, right, top, right, bottom, left, bottom])
