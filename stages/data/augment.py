"""Random views of photographs for training; all randomness comes from the Generator given.

Two recipes, `classification_view` and `segmentation_view`, draw everything first and then resize only the part
that the crop keeps. The same steps stand alone for other recipes. Images are (H, W, 3) uint8 RGB, masks
(H, W) class ids; a normalised image is (3, H, W) float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageEnhance

from stages.data.masks import IGNORE_8_BIT
from stages.data.rand_augment import erase, rand_augment, resized_crop
from stages.kernels.resample import interpolation_matrix, resample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassificationView:
    """Settings of a view for image-level training; defaults of PSA's released code (crop 448).

    Long side in pixels, drawn uniformly; jitter as shares of change, hue as a share of the colour circle. With `area`
    (low, high) the view is a part of so large a share of the image instead, resized to the crop. `rand_augment` is a
    magnitude (0: none), `erase` a probability.
    """

    crop: int = 448
    long_side: tuple[int, int] = (256, 512)
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    area: tuple[float, ...] = ()
    rand_augment: float = 0.0
    erase: float = 0.0


@dataclass(frozen=True)
class SegmentationView:
    """Settings of a view with its mask; defaults of DeepLab-v2 (crop 321, scales .5 to 1.5, flip).

    `resize` is bicubic (smoothed) or bilinear (not smoothed). An image smaller than the crop lies at a random place in
    it, or with `in_corner` at the top left; `padding` is the label around it, None for `ignore`.
    """

    crop: int = 321
    scale: tuple[float, float] = (0.5, 1.5)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    ignore: int = IGNORE_8_BIT
    resize: str = "bicubic"
    in_corner: bool = False
    padding: int | None = None


def classification_view(image: np.ndarray, rng: Generator, settings: ClassificationView) -> np.ndarray:
    """Return a normalised random view (3, S, S) of `image`, S = `settings.crop`.

    PSA's and IRN's order: resize the long side, flip, jitter, normalise, crop with zeros around images smaller
    than the crop, at a random place. Zeros are put in after normalisation: they are the mean colour.
    We jitter the crop, so contrast turns about the crop's mean grey and not the photograph's.
    With an `area` it is DeiT's order: a part, resized; flip; RandAugment, jitter; normalise; erase.
    """
    if settings.area:
        part = resized_crop(image, rng, settings.crop, settings.area)
        size = (settings.crop, settings.crop)
    else:
        part, size = image, _long_side_size(image.shape[:2], settings.long_side, rng)
    view, _ = _view(part, None, size, rng, settings)
    return erase(view, rng, settings.erase) if settings.erase else view


def segmentation_view(
    image: np.ndarray, mask: np.ndarray, rng: Generator, settings: SegmentationView
) -> tuple[np.ndarray, np.ndarray]:
    """Return a normalised random view (3, S, S) and its mask (S, S), `settings.padding` outside the image.

    Scale, flip, jitter, normalise, crop; the mask is resized to the nearest pixel.
    """
    size = _scaled_size(image.shape[:2], settings.scale, rng)
    view, view_mask = _view(image, mask, size, rng, settings)
    assert view_mask is not None  # a mask went in
    return view, view_mask


def cell_view(
    image: np.ndarray, label: np.ndarray, cell: int, rng: Generator, settings: SegmentationView
) -> tuple[np.ndarray, np.ndarray]:
    """Return a normalised random window (3, S, S) of `image` and its label (S / cell, S / cell), unscaled.

    `label` (h, w) has one value for `cell` x `cell` pixels, so windows start at whole cells; `settings.ignore` stands
    outside. The canvas is flipped, not the window: a cell cut by the border keeps its pixels.
    """
    source, target = _placement(label.shape, settings.crop // cell, rng)
    pixels = tuple(slice(part.start * cell, part.stop * cell) for part in source)
    part = colour_jitter(image[pixels], settings.brightness, settings.contrast, settings.saturation, settings.hue, rng)
    canvas = np.zeros((3, settings.crop, settings.crop), dtype=np.float32)
    top, left = target[0].start * cell, target[1].start * cell
    canvas[:, top:top + part.shape[0], left:left + part.shape[1]] = normalise(part, settings.mean, settings.std)
    canvas_label = np.full((settings.crop // cell,) * 2, settings.ignore, dtype=label.dtype)
    canvas_label[target] = label[source]
    if rng.random() < settings.flip:
        canvas, canvas_label = np.ascontiguousarray(canvas[:, :, ::-1]), np.ascontiguousarray(canvas_label[:, ::-1])
    return canvas, canvas_label


def square_view(
    image: np.ndarray, mask: np.ndarray, short_side: int, crop: int, rng: Generator, *, probability: float = 0.5,
    fill: tuple[int, ...] = (0, 0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random window (S, S, 3) uint8 of `image` and its mask's (S, S), the short side resized to `short_side`.

    S is `crop`; mirrored with `probability`; the mask is resized to the nearest pixel. Where the image is smaller than
    the window it lies at a random place, with the colour `fill` and the mask's largest value (ignored) around it.
    """
    size = _rounded(image.shape[:2], short_side / min(image.shape[:2]))
    source, target = _placement(size, crop, rng)
    part, part_mask = flip(_resize(image, size, source), rng, _nearest(mask, size, source), probability)
    canvas = np.full((crop, crop, 3), np.asarray(fill, dtype=np.uint8))
    canvas_mask = np.full((crop, crop), np.iinfo(mask.dtype).max, dtype=mask.dtype)
    canvas[target], canvas_mask[target] = part, part_mask
    return canvas, canvas_mask


def resize_long_side(
    image: np.ndarray, low: int, high: int, rng: Generator, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return image (bicubic) and mask (nearest) with a long side drawn uniformly from low..high pixels."""
    size = _long_side_size(image.shape[:2], (low, high), rng)
    return _resize_both(image, mask, size)


def random_scale(
    image: np.ndarray, low: float, high: float, rng: Generator, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return image (bicubic) and mask (nearest) scaled by a factor drawn uniformly from [low, high)."""
    return _resize_both(image, mask, _scaled_size(image.shape[:2], (low, high), rng))


def flip(
    image: np.ndarray, rng: Generator, mask: np.ndarray | None = None, probability: float = 0.5
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return image (H, W, 3) and mask (H, W), both mirrored left to right with `probability`."""
    if rng.random() >= probability:
        return image, mask
    return image[:, ::-1], None if mask is None else mask[:, ::-1]


def colour_jitter(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float, rng: Generator
) -> np.ndarray:
    """Return `image` with brightness, contrast and saturation multiplied by U(1 - v, 1 + v) and hue turned.

    Hue turns by U(-hue, hue) of the circle (in steps of 1/256). The four come in random order.
    """
    changes = {"Brightness": brightness, "Contrast": contrast, "Color": saturation, "Hue": hue}
    picture = Image.fromarray(np.ascontiguousarray(image))
    for place in rng.permutation(len(changes)):
        name, extent = list(changes.items())[place]
        amount = rng.uniform(-extent, extent)
        if extent == 0:
            continue
        if name == "Hue":
            picture = _turn_hue(picture, round(amount * 256))
        else:
            picture = getattr(ImageEnhance, name)(picture).enhance(max(0.0, 1.0 + amount))
    return np.array(picture)


def normalise(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return (3, H, W) float32: (image / 255 - mean) / std, with mean and std on the scale 0..1."""
    gain = 1.0 / (255.0 * np.asarray(std, dtype=np.float64))
    shift = -np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)
    result = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.multiply(image[:, :, channel], np.float32(gain[channel]), out=result[channel])
        result[channel] += np.float32(shift[channel])
    return result


def random_crop(
    image: np.ndarray,
    mask: np.ndarray | None,
    size: int,
    rng: Generator,
    fill: float = 0.0,
    ignore: int = IGNORE_8_BIT,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a random window (3, S, S) of a normalised image (3, H, W), and of its mask (H, W).

    Where the image is smaller than the window it lies at a random place, with `fill` and `ignore` around it.
    """
    source, target = _placement(image.shape[1:], size, rng)
    canvas = np.full((3, size, size), fill, dtype=np.float32)
    canvas[:, target[0], target[1]] = image[:, source[0], source[1]]
    if mask is None:
        return canvas, None
    canvas_mask = np.full((size, size), ignore, dtype=mask.dtype)
    canvas_mask[target] = mask[source]
    return canvas, canvas_mask


def _view(
    image: np.ndarray,
    mask: np.ndarray | None,
    size: tuple[int, int],
    rng: Generator,
    settings: ClassificationView | SegmentationView,
) -> tuple[np.ndarray, np.ndarray | None]:
    resize, in_corner, outside = _resize, False, IGNORE_8_BIT
    if isinstance(settings, SegmentationView):
        resize = _resize_bilinear if settings.resize == "bilinear" else _resize
        in_corner = settings.in_corner
        outside = settings.ignore if settings.padding is None else settings.padding
    source, target = _placement(size, settings.crop, rng, in_corner=in_corner)
    part, part_mask = resize(image, size, source), None
    if mask is not None:
        part_mask = _nearest(mask, size, source)
    part, part_mask = flip(part, rng, part_mask, settings.flip)
    if isinstance(settings, ClassificationView) and settings.rand_augment:
        part = rand_augment(part, rng, settings.rand_augment, settings.mean)
    part = colour_jitter(
        part, settings.brightness, settings.contrast, settings.saturation, settings.hue, rng
    )
    canvas = np.zeros((3, settings.crop, settings.crop), dtype=np.float32)
    canvas[:, target[0], target[1]] = normalise(part, settings.mean, settings.std)
    if part_mask is None:
        return canvas, None
    canvas_mask = np.full((settings.crop, settings.crop), outside, dtype=part_mask.dtype)
    canvas_mask[target] = part_mask
    return canvas, canvas_mask


Window = tuple[slice, slice]


def _placement(size: tuple[int, ...], crop: int, rng: Generator, *, in_corner: bool = False) -> tuple[Window, Window]:
    """Return where a window of crop x crop reads an image of `size`, and where on the canvas that goes.

    A smaller image goes to a random place, or with `in_corner` to the top left.
    """
    source, target = [], []
    for length in size:
        span = min(length, crop)
        read, put = (int(rng.integers(0, room + 1)) for room in (length - span, 0 if in_corner else crop - span))
        source.append(slice(read, read + span))
        target.append(slice(put, put + span))
    return (source[0], source[1]), (target[0], target[1])


def _long_side_size(size: tuple[int, ...], bounds: tuple[int, int], rng: Generator) -> tuple[int, int]:
    factor = int(rng.integers(bounds[0], bounds[1] + 1)) / max(size)
    return _rounded(size, factor)


def _scaled_size(size: tuple[int, ...], bounds: tuple[float, float], rng: Generator) -> tuple[int, int]:
    return _rounded(size, float(rng.uniform(*bounds)))


def _rounded(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize_both(
    image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    whole = (slice(0, size[0]), slice(0, size[1]))
    return _resize(image, size, whole), None if mask is None else _nearest(mask, size, whole)


def _resize(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    # The window of the bicubic resize to `size`: Pillow reads beyond the box, so its border is right too.
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    rows, columns = window
    box = (columns.start * across, rows.start * down, columns.stop * across, rows.stop * down)
    box = (*box[:2], min(box[2], image.shape[1]), min(box[3], image.shape[0]))
    extent = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(Image.fromarray(image).resize(extent, Image.Resampling.BICUBIC, box=box))


def _resize_bilinear(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """Return the window of a bilinear resize to `size` that smooths nothing, as OpenCV's; rounded to whole levels."""
    down, across = (interpolation_matrix(part.stop - part.start, full, scale=full / length,
                                         offset=part.start * full / length)
                    for part, full, length in zip(window, image.shape, size, strict=False))
    channels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return np.round(resample(channels, down, across).numpy()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _nearest(mask: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    rows, columns = (
        ((np.arange(part.start, part.stop) + 0.5) * (full / length)).astype(np.int64)
        for part, full, length in zip(window, mask.shape, size, strict=True)
    )
    return mask[rows[:, None], columns]


def _turn_hue(picture: Image.Image, steps: int) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
