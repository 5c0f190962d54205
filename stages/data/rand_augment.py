"""Strong augmentation for training vision transformers: random resized crop, RandAugment, random erasing.

Touvron et al., DeiT (ICML 2021), table 9, and MCTformer, which trains as DeiT does. All randomness comes from the
given Generator. Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps

ASPECT_RATIOS = (3 / 4, 4 / 3)
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
MAX_TRIES = 10
NUM_OPERATIONS, OPERATION_PROBABILITY, MAGNITUDE_STD, MAX_MAGNITUDE = 2, 0.5, 0.5, 10.0
AugmentOperation = Callable[[Image.Image, float, Generator, tuple[int, ...]], Image.Image]


def random_resized_crop(image: np.ndarray, rng: Generator, side: int, area: Sequence[float]) -> np.ndarray:
    """Crop a random part of `image` and resize it to (side, side, 3).

    The part covers a fraction of the image between `area` (low, high); its aspect ratio is between 3:4 and 4:3. Szegedy
    et al., "Going deeper with convolutions" (CVPR 2015), section 6. A part that does not fit is drawn again; after ten
    tries it is the largest central part with an allowed aspect ratio.
    """
    box = _sample_box(image.shape[:2], rng, area, ASPECT_RATIOS) or _compute_central_box(image.shape[:2])
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def _sample_box(size: tuple[int, ...], rng: Generator, area: Sequence[float],
                ratios: tuple[float, float]) -> tuple[int, int, int, int] | None:
    """Sample (left, top, right, bottom) of a random part; None if none of ten tries fits."""
    for _ in range(MAX_TRIES):
        num_pixels = float(rng.uniform(area[0], area[1])) * size[0] * size[1]
        aspect_ratio = float(np.exp(rng.uniform(np.log(ratios[0]), np.log(ratios[1]))))
        width, height = round((num_pixels * aspect_ratio) ** 0.5), round((num_pixels / aspect_ratio) ** 0.5)
        if 0 < width <= size[1] and 0 < height <= size[0]:
            top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
            return left, top, left + width, top + height
    return None


def _compute_central_box(size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the largest central part with an allowed aspect ratio."""
    height = min(size[0], max(1, round(size[1] / ASPECT_RATIOS[0])))
    width = min(size[1], max(1, round(size[0] * ASPECT_RATIOS[1])))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return left, top, left + width, top + height


def rand_augment(image: np.ndarray, rng: Generator, magnitude: float, fill: Sequence[float]) -> np.ndarray:
    """Apply two operations to `image`, each drawn from the fifteen AUGMENT_OPERATIONS and applied with probability 1/2.

    Cubuk et al., RandAugment (2020), as in DeiT: the strength of an operation is drawn from a normal distribution with
    mean `magnitude` and standard deviation 0.5, clipped to 0..10. `fill` is the colour in [0, 1] of pixels from outside
    the image.
    """
    augmented = Image.fromarray(np.ascontiguousarray(image))
    colour = tuple(round(255 * value) for value in fill)
    names = list(AUGMENT_OPERATIONS)
    for index in rng.integers(len(names), size=NUM_OPERATIONS):
        is_applied, drawn_magnitude = rng.random() < OPERATION_PROBABILITY, rng.normal(magnitude, MAGNITUDE_STD)
        if is_applied:
            strength = float(np.clip(drawn_magnitude, 0, MAX_MAGNITUDE)) / MAX_MAGNITUDE
            augmented = AUGMENT_OPERATIONS[names[index]](augmented, strength, rng, colour)
    return np.array(augmented)


def random_erase(view: np.ndarray, rng: Generator, probability: float) -> np.ndarray:
    """Replace a random rectangle of a normalised view (3, S, S), in place, by normal noise with `probability`.

    Zhong et al., "Random erasing" (AAAI 2020): 2 % to 1/3 of the area, aspect ratio up to 3:10; noise as in DeiT.
    """
    if rng.random() >= probability:
        return view
    box = _sample_box(view.shape[1:], rng, ERASED_AREA, ERASED_RATIO)
    if box is not None:
        left, top, right, bottom = box
        view[:, top:bottom, left:right] = rng.standard_normal((3, bottom - top, right - left), dtype=np.float32)
    return view


def _negate_randomly(amount: float, rng: Generator) -> float:
    return -amount if rng.random() < 0.5 else amount


def _transform_affine(image: Image.Image, matrix: tuple[float, ...], rng: Generator,
                      fill: tuple[int, ...]) -> Image.Image:
    resampling = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.integers(2))]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resampling, fillcolor=fill)


def _shear(axis: int, image: Image.Image, strength: float, rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    amount = _negate_randomly(0.3 * strength, rng)
    matrix = (1, amount, 0, 0, 1, 0) if axis == 1 else (1, 0, 0, amount, 1, 0)
    return _transform_affine(image, matrix, rng, fill)


def _translate(axis: int, image: Image.Image, strength: float, rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    amount = _negate_randomly(0.45 * strength, rng) * image.size[1 - axis]
    matrix = (1, 0, amount, 0, 1, 0) if axis == 1 else (1, 0, 0, 0, 1, amount)
    return _transform_affine(image, matrix, rng, fill)


def _rotate(image: Image.Image, strength: float, rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    resampling = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.integers(2))]
    return image.rotate(_negate_randomly(30 * strength, rng), resample=resampling, fillcolor=fill)


def _enhance(name: str, image: Image.Image, strength: float, rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    factor = max(0.1, 1 + _negate_randomly(0.9 * strength, rng))
    return getattr(ImageEnhance, name)(image).enhance(factor)


def _posterize(image: Image.Image, strength: float, _rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    num_bits = 4 - int(4 * strength)
    return ImageOps.posterize(image, num_bits) if num_bits else Image.new("RGB", image.size)


def _solarize(image: Image.Image, strength: float, _rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    return ImageOps.solarize(image, 256 - min(256, int(256 * strength)))


def _solarize_add(image: Image.Image, strength: float, _rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    offset = int(110 * strength)
    return image.point([min(255, level + offset) if level < 128 else level for level in range(256)] * 3)


def _apply(operation: Callable[[Image.Image], Image.Image], image: Image.Image, _strength: float, _rng: Generator,
           _fill: tuple[int, ...]) -> Image.Image:
    return operation(image)


AUGMENT_OPERATIONS: dict[str, AugmentOperation] = {
    "autocontrast": partial(_apply, ImageOps.autocontrast), "equalize": partial(_apply, ImageOps.equalize),
    "invert": partial(_apply, ImageOps.invert), "rotate": _rotate, "posterize": _posterize, "solarize": _solarize,
    "solarize-add": _solarize_add, "colour": partial(_enhance, "Color"), "contrast": partial(_enhance, "Contrast"),
    "brightness": partial(_enhance, "Brightness"), "sharpness": partial(_enhance, "Sharpness"),
    "shear-x": partial(_shear, 1), "shear-y": partial(_shear, 0), "translate-x": partial(_translate, 1),
    "translate-y": partial(_translate, 0),
}  # fmt: skip
