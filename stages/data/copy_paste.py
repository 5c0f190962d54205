"""Copy-paste augmentation between two images: the object of one, or its background, into the other.

Su et al., "Context Decoupling Augmentation" (CDA, ICCV 2021), and Yang et al., "Cross-domain Semantic Decoupling" (CSD,
BMVC 2023). All randomness comes from the given Generator. Images are (S, S, 3) uint8 RGB, masks (S, S) of class ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

from stages.data.augment import sample_square_view

_IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class PasteSettings:
    """Settings of a pair; the defaults are those of CSD's development code.

    Short side and crop are in pixels, `flip` is a probability. An object is scaled by a factor from `scale` and rotated
    by up to `rotation` degrees in either direction about the centre of its bounding box. It then stays there or moves
    to a random position (`placement` "same" or "random"). `fill` is the colour around images smaller than the crop.
    """

    crop: int = 224
    short_side: int = 256
    flip: float = 0.5
    placement: str = "same"
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    fill: tuple[int, ...] = (0, 0, 0)

    @property
    def moves_objects(self) -> bool:
        """Whether objects are moved, scaled or rotated before they are pasted."""
        return self.placement != "same" or self.scale != (1.0, 1.0) or self.rotation > 0


class PastedPair(NamedTuple):
    """Two views and the results of pasting: images (S, S, 3) uint8, masks (S, S) bool.

    `foreground` is `multi` with the object of `single` pasted where `object_mask` is set; `background` is `multi` with
    the background of `single` pasted where `background_mask` is set. `inverse_affine` (2, 3) float32 maps a position in
    `foreground` back to the position in `single`, both in coordinates from -1 to 1 over the view (x, y), as in torch's
    affine_grid.
    """

    single: np.ndarray
    multi: np.ndarray
    foreground: np.ndarray
    background: np.ndarray
    object_mask: np.ndarray
    background_mask: np.ndarray
    inverse_affine: np.ndarray


def paste_pair(single: tuple[np.ndarray, np.ndarray], multi: tuple[np.ndarray, np.ndarray], class_id: int,
               rng: Generator, settings: PasteSettings) -> PastedPair:
    """Paste between a single-label image of `class_id` and a multi-label image, each with its mask (H, W).

    The two views are drawn independently, then pixels are copied without blending: the object where the first mask has
    the class, the background where both masks have background (as in CSD's development code; its paper uses the first
    mask alone, which equals a second mask of zeros). A background is pasted in place.
    """
    image, mask = _sample_view(*single, rng, settings)
    multi_image, multi_mask = _sample_view(*multi, rng, settings)
    source_mask = mask == class_id
    affine = _sample_inverse_affine(source_mask, rng, settings)
    moved, object_mask = image, source_mask
    if affine is not _IDENTITY:
        moved, object_mask = _warp_image(image, affine, settings.fill), _warp_mask(source_mask, affine)
    background_mask = (mask == 0) & (multi_mask == 0)
    return PastedPair(image, multi_image, np.where(object_mask[..., None], moved, multi_image),
                      np.where(background_mask[..., None], image, multi_image), object_mask, background_mask,
                      _normalise_affine(affine, settings.crop))


def _sample_view(image: np.ndarray, mask: np.ndarray, rng: Generator,
                 settings: PasteSettings) -> tuple[np.ndarray, np.ndarray]:
    return sample_square_view(image, mask, settings.short_side, settings.crop, rng, probability=settings.flip,
                              fill=settings.fill)


def _sample_inverse_affine(object_mask: np.ndarray, rng: Generator, settings: PasteSettings) -> np.ndarray:
    """Sample the affine map (2, 3), in pixels, from the new position of an object's pixel back to its old position."""
    if not settings.moves_objects or not object_mask.any():
        return _IDENTITY
    scale, angle = rng.uniform(*settings.scale), np.radians(rng.uniform(-settings.rotation, settings.rotation))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    low, high = (np.array([bound(np.flatnonzero(object_mask.any(axis))) for axis in (0, 1)])
                 for bound in (np.min, np.max))
    centre = new_centre = (low + high + 1) / 2
    if settings.placement == "random":
        half_size = np.abs(rotation) @ (high - low + 1) / 2 * scale
        # An object larger than the view extends beyond both of its sides.
        bounds = np.sort(np.stack([half_size, settings.crop - half_size]), axis=0)
        new_centre = rng.uniform(bounds[0], bounds[1])
    inverse = rotation.T / scale
    return np.column_stack([inverse, centre - inverse @ new_centre])


def _warp_image(image: np.ndarray, affine: np.ndarray, fill: tuple[int, ...]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).transform(
        (image.shape[1], image.shape[0]), Image.Transform.AFFINE, affine.ravel().tolist(),
        resample=Image.Resampling.BILINEAR, fillcolor=tuple(fill)))


def _warp_mask(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    warped = Image.fromarray(mask.astype(np.uint8)).transform(
        (mask.shape[1], mask.shape[0]), Image.Transform.AFFINE, affine.ravel().tolist(),
        resample=Image.Resampling.NEAREST)
    return np.asarray(warped) > 0


def _normalise_affine(affine: np.ndarray, side: int) -> np.ndarray:
    """Convert an affine map of pixels to coordinates from -1 to 1 over a square of `side` pixels."""
    linear, shift = affine[:, :2], affine[:, 2]
    return np.column_stack([linear, linear.sum(axis=1) + 2 * shift / side - 1]).astype(np.float32)
