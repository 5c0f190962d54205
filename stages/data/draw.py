"""Draw classes over a photograph: masks, and the CAMs of several classes in one picture.

Functions take arrays and return arrays. Images are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.data.class_colours import class_colours
from stages.data.heat_maps import (
    BACKDROP_RANGE,
    blend,
    check_same_size,
    compute_luma,
    compute_opacity,
    compute_strength,
    draw_backdrop,
    find_inner_border,
)
from stages.data.masks import IGNORE_8_BIT, IGNORE_16_BIT

IGNORE_COLOUR = np.array((224, 224, 192), dtype=np.float32)
DARK_LINE_COLOUR = np.array((20, 20, 24), dtype=np.float32)
HATCH_SPACING = 6  # pixels from one hatching line to the next
_MIN_VISIBLE_HEAT = 0.1  # opacity
_MAX_LIGHTENING = 0.45  # share of white in a class colour over a white part of the photograph


def overlay_mask(image: np.ndarray, mask: np.ndarray, *, alpha: float = 0.6, outline: bool = True) -> np.ndarray:
    """Blend the classes of `mask` (H, W) over the image (H, W, 3); returns (H, W, 3) uint8.

    Classes get their colour of `class_colours` with opacity `alpha` in [0, 1] over the image in grey, so that its own
    colours do not change theirs. With `outline` their area has a border of a dark line and, inside it, a line of the
    class colour: one of the two is visible on every image. Ignored pixels are hatched; background pixels do not change.
    Raises ValueError if the sizes differ.
    """
    check_same_size(image, mask)
    ignored = find_ignored(mask)
    is_class = (mask > 0) & ~ignored
    colours = class_colours(np.where(is_class, mask, 0)).astype(np.float32)
    grey = np.repeat(compute_luma(image)[..., None], 3, axis=-1)
    base = np.where(is_class[..., None], grey, np.asarray(image, dtype=np.float32))
    opacity = np.where(is_class, np.float32(alpha), np.float32(0))
    opacity[ignored], colours[ignored] = 0.4 * alpha, IGNORE_COLOUR
    opacity[ignored & _draw_hatching(mask.shape)] = 0.85
    if outline:
        dark_line, class_line = _find_outlines(mask, is_class)
        opacity[dark_line | class_line] = 1
        colours[dark_line] = DARK_LINE_COLOUR
    return blend(base, colours, opacity)


def colour_cams(
    cam: np.ndarray, class_ids: Sequence[int] | np.ndarray, *, image: np.ndarray | None = None,
    scores: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Colour the CAMs of all classes of an image, `cam` (K, H, W) in [0, 1] of classes (K,), as one (H, W, 3) uint8.

    Each pixel mixes the colours of its classes weighted by activation. Its opacity grows with the largest activation,
    over black or over the `image` (H, W, 3) in dark grey; bright parts of the image make the colours lighter, so that
    the object remains visible under them. Classes with low `scores` (K,) are faint. A row of class 0 is not drawn.
    Raises ValueError if the number of rows differs from the number of class ids, or the sizes differ.
    """
    cam, ids = np.asarray(cam, dtype=np.float32), np.asarray(class_ids, dtype=np.int64)
    if cam.ndim != 3 or len(cam) != len(ids):
        raise ValueError(f"CAMs of shape {cam.shape} do not fit {len(ids)} class ids")
    base = np.zeros((*cam.shape[1:], 3), dtype=np.uint8)
    lightness = np.zeros(cam.shape[1:], dtype=np.float32)
    if image is not None:
        check_same_size(image, base)
        base = draw_backdrop(image)
        lightness = (base[..., 0] - BACKDROP_RANGE[0]) / (BACKDROP_RANGE[1] - BACKDROP_RANGE[0])
    opacity = _compute_class_opacity(cam, ids, scores)
    total = opacity.sum(axis=0)[..., None]
    mixed = np.tensordot(opacity, class_colours(ids).astype(np.float32), axes=(0, 0)) / np.maximum(total, 1e-6)
    lightened = mixed + (255 - mixed) * (_MAX_LIGHTENING * lightness[..., None])
    return blend(base, lightened, opacity.max(axis=0, initial=0))


def find_heated_classes(cam: np.ndarray, class_ids: Sequence[int] | np.ndarray,
                        scores: Sequence[float] | np.ndarray | None = None) -> tuple[int, ...]:
    """Return the class ids that `colour_cams` draws visibly somewhere; arguments as there."""
    ids = np.asarray(class_ids, dtype=np.int64)
    opacity = _compute_class_opacity(np.asarray(cam, dtype=np.float32), ids, scores)
    return tuple(int(class_id) for class_id, row in zip(ids, opacity, strict=True)
                 if row.max(initial=0) >= _MIN_VISIBLE_HEAT)


def find_mask_classes(mask: np.ndarray) -> tuple[int, ...]:
    """Return the class ids in a mask (H, W), without background and ignored pixels, in increasing order."""
    # np.unique would sort the pixels, and import numpy.ma.
    return tuple(np.flatnonzero(np.bincount(mask[(mask > 0) & ~find_ignored(mask)])).tolist())


def find_ignored(mask: np.ndarray) -> np.ndarray:
    """Return which pixels of a mask have the ignore index of its type, (H, W) bool."""
    return mask == (IGNORE_16_BIT if mask.dtype == np.uint16 else IGNORE_8_BIT)


def _compute_class_opacity(cam: np.ndarray, ids: np.ndarray,
                           scores: Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Return the opacity (K, H, W) of each class; 0 for the background."""
    strengths = np.array([compute_strength(None if scores is None else scores[row]) for row in range(len(ids))],
                         dtype=np.float32)
    strengths[ids <= 0] = 0
    return compute_opacity(np.clip(np.nan_to_num(cam), 0, 1)) * strengths.reshape(-1, 1, 1)


def _draw_hatching(size: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows + columns) % HATCH_SPACING < 2


def _find_outlines(mask: np.ndarray, is_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a class next to another class or none, and the pixels next to those, each (H, W) bool."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = is_class & np.logical_or.reduce([neighbour != mask for neighbour in neighbours])
    return border, find_inner_border(is_class & ~border)
