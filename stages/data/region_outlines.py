"""Draw regions without classes, such as superpixels or the masks of SAM, over a photograph.

They have outlines and no colours: those would be taken for the colours of classes in the panel next to them.
"""

from __future__ import annotations

import numpy as np

from stages.data.heat_maps import blend, check_same_size

LIGHT_LINE_COLOUR, DARK_LINE_COLOUR = np.float32((255, 236, 60)), np.float32((16, 16, 40))
OUTSIDE_COLOUR = np.float32((110, 110, 116))
_OUTSIDE_OPACITY = 0.75
_LINE_OPACITY = 0.9


def overlay_regions(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw the outlines of regions, `labels` (H, W) with 0 for none, over the image (H, W, 3); returns (H, W, 3) uint8.

    An outline has a light line on one side and a dark line on the other, so one of them is visible on every image.
    Pixels of no region are covered with grey. Raises ValueError if the sizes differ.
    """
    check_same_size(image, labels)
    outside = (labels == 0)[..., None]
    light, dark = find_region_outlines(labels)
    colours = np.where(light[..., None], LIGHT_LINE_COLOUR, np.where(dark[..., None], DARK_LINE_COLOUR, OUTSIDE_COLOUR))
    opacity = np.where(light | dark, np.float32(_LINE_OPACITY),
                       np.where(outside[..., 0], np.float32(_OUTSIDE_OPACITY), np.float32(0)))
    return blend(np.asarray(image, dtype=np.float32), colours, opacity)


def find_region_outlines(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of light and of dark lines, each (H, W) bool: those next to a pixel of another region.

    Of two regions that touch, the one with the higher label has the light line.
    """
    padded = np.pad(labels, 1, mode="edge")
    neighbours = np.stack((padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]))
    dark = (neighbours > labels).any(axis=0)
    return (neighbours < labels).any(axis=0) & ~dark, dark


def count_regions(labels: np.ndarray) -> int:
    """Return the number of regions in `labels` (H, W), in which 0 is no region."""
    return len(np.unique(labels[labels > 0]))


def describe_regions(labels: np.ndarray) -> str:
    """Return the number of regions as words: "1 region", "34 regions"."""
    count = count_regions(labels)
    return f"{count} region{'s' * (count != 1)}"
