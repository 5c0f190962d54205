"""Strong views of photographs as vision transformers are trained on: a random part, RandAugment, erasing.

Touvron et al., DeiT (ICML 2021), table 9, and MCTformer, which trains as DeiT does. All randomness comes from the
Generator given. Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps

RATIO = (3 / 4, 4 / 3)
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
TRIES = 10
OPERATIONS, PROBABILITY, SPREAD, STRONGEST = 2, 0.5, 0.5, 10.0
Change = Callable[[Image.Image, float, Generator, tuple[int, ...]], Image.Image]


def resized_crop(image: np.ndarray, rng: Generator, side: int, area: Sequence[float]) -> np.ndarray:
    """Return a part of `image` resized to (side, side, 3): a share of `area` (low, high), sides 3:4 to 4:3.

    Szegedy et al., "Going deeper with convolutions" (CVPR 2015), section 6. A part that does not fit is drawn again; in
    the end it is the largest one in the middle whose sides are not beyond those ratios.
    """
    box = _box(image.shape[:2], rng, area, RATIO) or _middle(image.shape[:2])
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def _box(size: tuple[int, ...], rng: Generator, area: Sequence[float],
         ratio: tuple[float, float]) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom) of a random part, or None where ten tries did not fit."""
    for _ in range(TRIES):
        wanted = float(rng.uniform(area[0], area[1])) * size[0] * size[1]
        shape = float(np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]))))
        width, height = round((wanted * shape) ** 0.5), round((wanted / shape) ** 0.5)
        if 0 < width <= size[1] and 0 < height <= size[0]:
            top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
            return left, top, left + width, top + height
    return None


def _middle(size: tuple[int, ...]) -> tuple[int, int, int, int]:
    height = min(size[0], max(1, round(size[1] / RATIO[0])))
    width = min(size[1], max(1, round(size[0] * RATIO[1])))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return left, top, left + width, top + height


def rand_augment(image: np.ndarray, rng: Generator, magnitude: float, fill: Sequence[float]) -> np.ndarray:
    """Return `image` after two changes, each drawn from the fifteen of CHANGES and done with probability 1/2.

    Cubuk et al., RandAugment (2020), as in DeiT: all changes grow with the magnitude, which is drawn from a normal
    distribution of spread 0.5 about `magnitude` and cut to 0..10. `fill` is the colour in [0, 1] of what moves in.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    colour = tuple(round(255 * one) for one in fill)
    names = list(CHANGES)
    for place in rng.integers(len(names), size=OPERATIONS):
        happens, drawn = rng.random() < PROBABILITY, rng.normal(magnitude, SPREAD)
        if happens:
            share = float(np.clip(drawn, 0, STRONGEST)) / STRONGEST
            picture = CHANGES[names[place]](picture, share, rng, colour)
    return np.array(picture)


def erase(view: np.ndarray, rng: Generator, probability: float) -> np.ndarray:
    """Return a normalised view (3, S, S) with, by `probability`, a rectangle of normal noise.

    Zhong et al., "Random erasing" (AAAI 2020): 2 % to 1/3 of the area, sides up to 3:10; noise as in DeiT.
    """
    if rng.random() >= probability:
        return view
    box = _box(view.shape[1:], rng, ERASED_AREA, ERASED_RATIO)
    if box is not None:
        left, top, right, bottom = box
        view[:, top:bottom, left:right] = rng.standard_normal((3, bottom - top, right - left), dtype=np.float32)
    return view


def _signed(amount: float, rng: Generator) -> float:
    return -amount if rng.random() < 0.5 else amount


def _moved(picture: Image.Image, matrix: tuple[float, ...], rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    kind = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.integers(2))]
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=kind, fillcolor=fill)


def _shear(axis: int, picture: Image.Image, share: float, rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    amount = _signed(0.3 * share, rng)
    matrix = (1, amount, 0, 0, 1, 0) if axis == 1 else (1, 0, 0, amount, 1, 0)
    return _moved(picture, matrix, rng, fill)


def _translate(axis: int, picture: Image.Image, share: float, rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    amount = _signed(0.45 * share, rng) * picture.size[1 - axis]
    matrix = (1, 0, amount, 0, 1, 0) if axis == 1 else (1, 0, 0, 0, 1, amount)
    return _moved(picture, matrix, rng, fill)


def _rotate(picture: Image.Image, share: float, rng: Generator, fill: tuple[int, ...]) -> Image.Image:
    kind = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.integers(2))]
    return picture.rotate(_signed(30 * share, rng), resample=kind, fillcolor=fill)


def _enhance(name: str, picture: Image.Image, share: float, rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    factor = max(0.1, 1 + _signed(0.9 * share, rng))
    return getattr(ImageEnhance, name)(picture).enhance(factor)


def _posterize(picture: Image.Image, share: float, _rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    kept = 4 - int(4 * share)
    return ImageOps.posterize(picture, kept) if kept else Image.new("RGB", picture.size)


def _solarize(picture: Image.Image, share: float, _rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    return ImageOps.solarize(picture, 256 - min(256, int(256 * share)))


def _solarize_add(picture: Image.Image, share: float, _rng: Generator, _fill: tuple[int, ...]) -> Image.Image:
    added = int(110 * share)
    return picture.point([min(255, level + added) if level < 128 else level for level in range(256)] * 3)


def _plain(change: Callable[[Image.Image], Image.Image], picture: Image.Image, _share: float, _rng: Generator,
           _fill: tuple[int, ...]) -> Image.Image:
    return change(picture)


CHANGES: dict[str, Change] = {
    "autocontrast": partial(_plain, ImageOps.autocontrast), "equalize": partial(_plain, ImageOps.equalize),
    "invert": partial(_plain, ImageOps.invert), "rotate": _rotate, "posterize": _posterize, "solarize": _solarize,
    "solarize-add": _solarize_add, "colour": partial(_enhance, "Color"), "contrast": partial(_enhance, "Contrast"),
    "brightness": partial(_enhance, "Brightness"), "sharpness": partial(_enhance, "Sharpness"),
    "shear-x": partial(_shear, 1), "shear-y": partial(_shear, 0), "translate-x": partial(_translate, 1),
    "translate-y": partial(_translate, 0),
}  # fmt: skip
