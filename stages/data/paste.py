"""Copy-paste between two photographs: the object of one, or its background, into another.

Su et al., "Context Decoupling Augmentation" (CDA, ICCV 2021), and Yang et al., "Cross-domain Semantic Decoupling" (CSD,
BMVC 2023). All randomness comes from the Generator given. Images are (S, S, 3) uint8 RGB, masks (S, S) of class ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from stages.data.augment import square_view

_STAYS = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class PasteView:
    """Settings of a pair; defaults of CSD's development code.

    Short side and crop in pixels, `flip` a probability. An object is scaled by a factor from `scale`, turned by up to
    `rotation` degrees either way, about the middle of its box, and stays there or goes anywhere (`placement` "same" or
    "random"). `fill` is the colour around images smaller than the crop.
    """

    crop: int = 224
    short_side: int = 256
    flip: float = 0.5
    placement: str = "same"
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    fill: tuple[int, ...] = (0, 0, 0)

    @property
    def moves(self) -> bool:
        """Whether objects leave their places."""
        return self.placement != "same" or self.scale != (1.0, 1.0) or self.rotation > 0


class Pair(NamedTuple):
    """Two views and what is pasted: images (S, S, 3) uint8, masks (S, S) bool.

    `foreground` is `multi` with the object of `single` where `object` is set, `background` with its background where
    `surroundings` is. `back` (2, 3) float32 leads from a place in `foreground` back to that in `single`, both in
    coordinates from -1 to 1 over the view (x, y), as torch's affine_grid has it.
    """

    single: np.ndarray
    multi: np.ndarray
    foreground: np.ndarray
    background: np.ndarray
    object: np.ndarray
    surroundings: np.ndarray
    back: np.ndarray


def paste_pair(single: tuple[np.ndarray, np.ndarray], multi: tuple[np.ndarray, np.ndarray], class_id: int,
               rng: Generator, settings: PasteView) -> Pair:
    """Return a pair from a single-label image of `class_id` and a multi-label one, each with its mask (H, W).

    Both views are drawn on their own, then pixels are copied hard: the object, where the first mask has the class, and
    the background, where both masks have background (CSD's development code; its paper has the first mask alone, which
    is a second one of zeros). A background stays in its place.
    """
    image, mask = _square(*single, rng, settings)
    into, into_mask = _square(*multi, rng, settings)
    there = mask == class_id
    way = _way(there, rng, settings)
    seen, inside = (image, there) if way is _STAYS else (_moved(image, way, settings.fill), _moved_mask(there, way))
    around = (mask == 0) & (into_mask == 0)
    return Pair(image, into, np.where(inside[..., None], seen, into), np.where(around[..., None], image, into), inside,
                around, _unit(way, settings.crop))


def _square(image: np.ndarray, mask: np.ndarray, rng: Generator, settings: PasteView) -> tuple[np.ndarray, np.ndarray]:
    return square_view(image, mask, settings.short_side, settings.crop, rng, probability=settings.flip,
                       fill=settings.fill)


def _way(there: np.ndarray, rng: Generator, settings: PasteView) -> np.ndarray:
    """Return the affine map (2, 3) that leads from the place of an object's pixel back to where it was, in pixels."""
    if not settings.moves or not there.any():
        return _STAYS
    scale, angle = rng.uniform(*settings.scale), np.radians(rng.uniform(-settings.rotation, settings.rotation))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    low, high = (np.array([place(np.flatnonzero(there.any(axis))) for axis in (0, 1)]) for place in (np.min, np.max))
    middle = aim = (low + high + 1) / 2
    if settings.placement == "random":
        half = np.abs(turn) @ (high - low + 1) / 2 * scale
        # What is larger than the view hangs over both of its sides.
        reach = np.sort(np.stack([half, settings.crop - half]), axis=0)
        aim = rng.uniform(reach[0], reach[1])
    back = turn.T / scale
    return np.column_stack([back, middle - back @ aim])


def _moved(image: np.ndarray, way: np.ndarray, fill: tuple[int, ...]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).transform(
        (image.shape[1], image.shape[0]), Image.Transform.AFFINE, way.ravel().tolist(),
        resample=Image.Resampling.BILINEAR, fillcolor=tuple(fill)))


def _moved_mask(mask: np.ndarray, way: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(mask.astype(np.uint8)).transform(
        (mask.shape[1], mask.shape[0]), Image.Transform.AFFINE, way.ravel().tolist(),
        resample=Image.Resampling.NEAREST)
    return np.asarray(picture) > 0


def _unit(way: np.ndarray, side: int) -> np.ndarray:
    """Return an affine map of pixels in coordinates from -1 to 1 over a square of `side` pixels."""
    linear, shift = way[:, :2], way[:, 2]
    return np.column_stack([linear, linear.sum(axis=1) + 2 * shift / side - 1]).astype(np.float32)
