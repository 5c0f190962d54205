"""Sample random views (augmented crops) of images for training; all randomness comes from the given Generator.

The two recipes, `sample_classification_view` and `sample_segmentation_view`, draw all random numbers first and then
resize only the part of the image that is inside the crop. The single steps are also functions, for other recipes.
Images are (H, W, 3) uint8 RGB, masks (H, W) class ids; a normalised image is (3, H, W) float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageEnhance

from stages.data.masks import IGNORE_8_BIT
from stages.data.rand_augment import rand_augment, random_erase, random_resized_crop
from stages.kernels.resample import build_interpolation_matrix, resample

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClassificationViewSettings:
    """Settings of a view for image-level training; the defaults are those of PSA's released code (crop 448).

    The long side is in pixels and drawn uniformly. Jitter strengths are relative changes, hue is a fraction of the
    colour circle. If `area` (low, high) is set, the view is instead a random part that covers this fraction of the
    image, resized to the crop. `rand_augment` is a magnitude (0: off), `erase` a probability.
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
class SegmentationViewSettings:
    """Settings of a view with its mask; the defaults are those of DeepLab-v2 (crop 321, scale 0.5 to 1.5, flip).

    `resize` is bicubic (antialiased) or bilinear (not antialiased). An image smaller than the crop goes to a random
    position in it, or with `anchor_top_left` at the top left; `padding_label` is the label around it, or None for
    `ignore_index`.
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
    ignore_index: int = IGNORE_8_BIT
    resize: str = "bicubic"
    anchor_top_left: bool = False
    padding_label: int | None = None


def sample_classification_view(image: np.ndarray, rng: Generator, settings: ClassificationViewSettings) -> np.ndarray:
    """Sample a normalised random view (3, S, S) of `image`, S = `settings.crop`.

    The order is that of PSA and IRN: resize the long side, flip, jitter, normalise, crop. Images smaller than the crop
    are placed at a random position and padded with zeros after normalisation, that is with the mean colour.
    Here the crop is jittered, so contrast changes about the mean grey of the crop and not of the whole image.
    If `area` is set, the order is that of DeiT: random resized crop, flip, RandAugment, jitter, normalise, erase.
    """
    if settings.area:
        part = random_resized_crop(image, rng, settings.crop, settings.area)
        size = (settings.crop, settings.crop)
    else:
        part, size = image, _sample_long_side_size(image.shape[:2], settings.long_side, rng)
    view, _ = _crop_flip_jitter(part, None, size, rng, settings)
    return random_erase(view, rng, settings.erase) if settings.erase else view


def sample_segmentation_view(
    image: np.ndarray, mask: np.ndarray, rng: Generator, settings: SegmentationViewSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Sample a normalised random view (3, S, S) and its mask (S, S), `settings.padding_label` outside the image.

    Scale, flip, jitter, normalise, crop; the mask is resized by nearest neighbour.
    """
    size = _sample_scaled_size(image.shape[:2], settings.scale, rng)
    view, view_mask = _crop_flip_jitter(image, mask, size, rng, settings)
    assert view_mask is not None  # because a mask was passed
    return view, view_mask


def sample_cell_aligned_view(
    image: np.ndarray, label: np.ndarray, cell: int, rng: Generator, settings: SegmentationViewSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Sample a normalised random window (3, S, S) of `image` and its label (S / cell, S / cell), without scaling.

    `label` (h, w) has one value per `cell` x `cell` pixels, so windows start at cell borders; outside the image the
    label is `settings.ignore_index`. The padded canvas is flipped rather than the window, so that a cell cut by the
    border keeps its pixels.
    """
    source, target = _sample_placement(label.shape, settings.crop // cell, rng)
    window = tuple(slice(cells.start * cell, cells.stop * cell) for cells in source)
    part = jitter_colours(image[window], settings.brightness, settings.contrast, settings.saturation, settings.hue, rng)
    canvas = np.zeros((3, settings.crop, settings.crop), dtype=np.float32)
    top, left = target[0].start * cell, target[1].start * cell
    canvas[:, top:top + part.shape[0], left:left + part.shape[1]] = normalise(part, settings.mean, settings.std)
    canvas_label = np.full((settings.crop // cell,) * 2, settings.ignore_index, dtype=label.dtype)
    canvas_label[target] = label[source]
    if rng.random() < settings.flip:
        canvas, canvas_label = np.ascontiguousarray(canvas[:, :, ::-1]), np.ascontiguousarray(canvas_label[:, ::-1])
    return canvas, canvas_label


def sample_square_view(
    image: np.ndarray, mask: np.ndarray, short_side: int, crop: int, rng: Generator, *, probability: float = 0.5,
    fill: tuple[int, ...] = (0, 0, 0),
) -> tuple[np.ndarray, np.ndarray]:
    """Sample a random window (S, S, 3) uint8 of `image` and of its mask (S, S), with the short side at `short_side`.

    S is `crop`. The window is mirrored with `probability`; the mask is resized by nearest neighbour. An image smaller
    than the window is placed at a random position, with the colour `fill` and the mask's largest value (ignored) around
    it.
    """
    size = _scale_size(image.shape[:2], short_side / min(image.shape[:2]))
    source, target = _sample_placement(size, crop, rng)
    part, part_mask = random_flip(
        _resize_window(image, size, source), rng, _resize_mask_window(mask, size, source), probability
    )
    canvas = np.full((crop, crop, 3), np.asarray(fill, dtype=np.uint8))
    canvas_mask = np.full((crop, crop), np.iinfo(mask.dtype).max, dtype=mask.dtype)
    canvas[target], canvas_mask[target] = part, part_mask
    return canvas, canvas_mask


def resize_long_side(
    image: np.ndarray, low: int, high: int, rng: Generator, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resize image (bicubic) and mask (nearest) to a long side drawn uniformly from low..high pixels."""
    size = _sample_long_side_size(image.shape[:2], (low, high), rng)
    return _resize_both(image, mask, size)


def random_scale(
    image: np.ndarray, low: float, high: float, rng: Generator, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scale image (bicubic) and mask (nearest) by a factor drawn uniformly from [low, high)."""
    return _resize_both(image, mask, _sample_scaled_size(image.shape[:2], (low, high), rng))


def random_flip(
    image: np.ndarray, rng: Generator, mask: np.ndarray | None = None, probability: float = 0.5
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mirror image (H, W, 3) and mask (H, W) left to right, both or neither, with `probability`."""
    if rng.random() >= probability:
        return image, mask
    return image[:, ::-1], None if mask is None else mask[:, ::-1]


def jitter_colours(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float, rng: Generator
) -> np.ndarray:
    """Multiply brightness, contrast and saturation of `image` by U(1 - v, 1 + v) and shift its hue.

    The hue shifts by U(-hue, hue) of the colour circle (in steps of 1/256). The four changes are made in random order.
    """
    strengths = {"Brightness": brightness, "Contrast": contrast, "Color": saturation, "Hue": hue}
    jittered = Image.fromarray(np.ascontiguousarray(image))
    for index in rng.permutation(len(strengths)):
        name, strength = list(strengths.items())[index]
        amount = rng.uniform(-strength, strength)
        if strength == 0:
            continue
        if name == "Hue":
            jittered = _shift_hue(jittered, round(amount * 256))
        else:
            jittered = getattr(ImageEnhance, name)(jittered).enhance(max(0.0, 1.0 + amount))
    return np.array(jittered)


def normalise(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Compute (image / 255 - mean) / std as (3, H, W) float32, with mean and std on the scale 0..1."""
    gain = 1.0 / (255.0 * np.asarray(std, dtype=np.float64))
    shift = -np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)
    normalised = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.multiply(image[:, :, channel], np.float32(gain[channel]), out=normalised[channel])
        normalised[channel] += np.float32(shift[channel])
    return normalised


def random_crop(
    image: np.ndarray,
    mask: np.ndarray | None,
    size: int,
    rng: Generator,
    fill: float = 0.0,
    ignore_index: int = IGNORE_8_BIT,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Crop a random window (3, S, S) from a normalised image (3, H, W) and the same window from its mask (H, W).

    An image smaller than the window is placed at a random position, with `fill` and `ignore_index` around it.
    """
    source, target = _sample_placement(image.shape[1:], size, rng)
    canvas = np.full((3, size, size), fill, dtype=np.float32)
    canvas[:, target[0], target[1]] = image[:, source[0], source[1]]
    if mask is None:
        return canvas, None
    canvas_mask = np.full((size, size), ignore_index, dtype=mask.dtype)
    canvas_mask[target] = mask[source]
    return canvas, canvas_mask


def _crop_flip_jitter(
    image: np.ndarray,
    mask: np.ndarray | None,
    size: tuple[int, int],
    rng: Generator,
    settings: ClassificationViewSettings | SegmentationViewSettings,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Crop image and mask at the resized `size`, flip them, change the colours and normalise the image."""
    resize_window, anchor_top_left, padding_label = _resize_window, False, IGNORE_8_BIT
    if isinstance(settings, SegmentationViewSettings):
        resize_window = _resize_window_bilinear if settings.resize == "bilinear" else _resize_window
        anchor_top_left = settings.anchor_top_left
        padding_label = settings.ignore_index if settings.padding_label is None else settings.padding_label
    source, target = _sample_placement(size, settings.crop, rng, anchor_top_left=anchor_top_left)
    part, part_mask = resize_window(image, size, source), None
    if mask is not None:
        part_mask = _resize_mask_window(mask, size, source)
    part, part_mask = random_flip(part, rng, part_mask, settings.flip)
    if isinstance(settings, ClassificationViewSettings) and settings.rand_augment:
        part = rand_augment(part, rng, settings.rand_augment, settings.mean)
    part = jitter_colours(
        part, settings.brightness, settings.contrast, settings.saturation, settings.hue, rng
    )
    canvas = np.zeros((3, settings.crop, settings.crop), dtype=np.float32)
    canvas[:, target[0], target[1]] = normalise(part, settings.mean, settings.std)
    if part_mask is None:
        return canvas, None
    canvas_mask = np.full((settings.crop, settings.crop), padding_label, dtype=part_mask.dtype)
    canvas_mask[target] = part_mask
    return canvas, canvas_mask


Window = tuple[slice, slice]


def _sample_placement(
    size: tuple[int, ...], crop: int, rng: Generator, *, anchor_top_left: bool = False
) -> tuple[Window, Window]:
    """Sample which window of crop x crop pixels is read from an image of `size`, and where on the canvas it goes.

    An image smaller than the crop goes to a random position, or with `anchor_top_left` to the top left.
    """
    source, target = [], []
    for length in size:
        span = min(length, crop)
        slacks = (length - span, 0 if anchor_top_left else crop - span)
        source_start, target_start = (int(rng.integers(0, slack + 1)) for slack in slacks)
        source.append(slice(source_start, source_start + span))
        target.append(slice(target_start, target_start + span))
    return (source[0], source[1]), (target[0], target[1])


def _sample_long_side_size(size: tuple[int, ...], bounds: tuple[int, int], rng: Generator) -> tuple[int, int]:
    factor = int(rng.integers(bounds[0], bounds[1] + 1)) / max(size)
    return _scale_size(size, factor)


def _sample_scaled_size(size: tuple[int, ...], bounds: tuple[float, float], rng: Generator) -> tuple[int, int]:
    return _scale_size(size, float(rng.uniform(*bounds)))


def _scale_size(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize_both(
    image: np.ndarray, mask: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    whole = (slice(0, size[0]), slice(0, size[1]))
    return _resize_window(image, size, whole), None if mask is None else _resize_mask_window(mask, size, whole)


def _resize_window(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """Return a window of the bicubic resize of an image to `size`, without resizing the rest."""
    # Pillow also reads pixels beyond the box, so the border of the window is right too.
    y_scale, x_scale = image.shape[0] / size[0], image.shape[1] / size[1]
    rows, columns = window
    box = (columns.start * x_scale, rows.start * y_scale, columns.stop * x_scale, rows.stop * y_scale)
    box = (*box[:2], min(box[2], image.shape[1]), min(box[3], image.shape[0]))
    extent = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(Image.fromarray(image).resize(extent, Image.Resampling.BICUBIC, box=box))


def _resize_window_bilinear(image: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """Return a window of the bilinear resize to `size`, without antialiasing (as OpenCV), rounded to whole levels."""
    row_weights, column_weights = (
        build_interpolation_matrix(span.stop - span.start, full, scale=full / length, offset=span.start * full / length)
        for span, full, length in zip(window, image.shape, size, strict=False)
    )
    channels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    resized = np.round(resample(channels, row_weights, column_weights).numpy())
    return resized.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def _resize_mask_window(mask: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    """Return a window of the nearest-neighbour resize of a mask to `size`."""
    rows, columns = (
        ((np.arange(span.start, span.stop) + 0.5) * (full / length)).astype(np.int64)
        for span, full, length in zip(window, mask.shape, size, strict=True)
    )
    return mask[rows[:, None], columns]


def _shift_hue(image: Image.Image, steps: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")
