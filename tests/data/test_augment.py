"""Random views: their content, their padding, and that they depend on the generator alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stages.data.augment import (
    ClassificationViewSettings,
    SegmentationViewSettings,
    jitter_colours,
    normalise,
    random_crop,
    random_flip,
    random_scale,
    resize_long_side,
    sample_classification_view,
    sample_segmentation_view,
)

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth image without the mean colour: red increases to the right, green downwards."""
    y, x = np.indices((60, 90))
    return np.stack([140 + x, 140 + y, np.full_like(x, 200)], axis=2).astype(np.uint8)


def test_resize_long_side_stays_within_bounds(photo):
    mask = photo[:, :, 0]
    sides = set()
    for seed in range(60):
        image, small = resize_long_side(photo, 40, 44, generator(seed), mask)
        assert image.shape[:2] == small.shape and image.shape[0] == round(60 * image.shape[1] / 90)
        sides.add(image.shape[1])
        assert set(np.unique(small)) <= set(np.unique(mask))
    assert sides == {40, 41, 42, 43, 44}


def test_resize_is_bicubic(photo):
    image, _ = resize_long_side(photo, 45, 45, generator())
    expected = Image.fromarray(photo).resize((45, 30), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_scale_and_flip_apply_to_mask_and_image(photo):
    image, mask = random_scale(photo, 0.5, 1.5, generator(3), photo[:, :, 0])
    assert image.shape[:2] == mask.shape and 30 <= mask.shape[0] <= 90
    mirrored, mirrored_mask = random_flip(photo, generator(), photo[:, :, 0], probability=1.0)
    np.testing.assert_array_equal(mirrored, photo[:, ::-1])
    np.testing.assert_array_equal(mirrored_mask, photo[:, ::-1, 0])
    assert random_flip(photo, generator(), probability=0.0)[0] is photo


def test_normalise():
    image = np.array([[[0, 51, 255]]], dtype=np.uint8)
    result = normalise(image, (0.5, 0.2, 0.0), (0.5, 0.1, 2.0))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.ravel(), [-1, 0, 0.5], atol=1e-6)


def test_crop_of_a_small_image_is_at_a_random_position_in_zeros():
    image = np.ones((3, 4, 5), dtype=np.float32)
    mask = np.full((4, 5), 7, dtype=np.uint8)
    positions = set()
    for seed in range(200):
        canvas, labels = random_crop(image, mask, 6, generator(seed))
        assert canvas.sum() == image.size
        np.testing.assert_array_equal(labels == 7, canvas[0] == 1)
        assert set(np.unique(labels)) == {7, 255}
        positions.add(tuple(np.argwhere(labels == 7)[0]))
    assert positions == {(y, x) for y in range(3) for x in range(2)}


def test_crop_of_a_large_image_is_a_window():
    image = np.arange(3 * 8 * 9, dtype=np.float32).reshape(3, 8, 9)
    starts = set()
    for seed in range(300):
        canvas, no_mask = random_crop(image, None, 5, generator(seed))
        assert no_mask is None
        y, x = np.argwhere(image[0] == canvas[0, 0, 0])[0]
        np.testing.assert_array_equal(canvas, image[:, y : y + 5, x : x + 5])
        starts.add((y, x))
    assert starts == {(y, x) for y in range(4) for x in range(5)}


@pytest.mark.parametrize("crop", [32, 128])
def test_view_equals_its_steps_one_by_one(photo, crop):
    """Without jitter a view is resize, normalise, crop; it is fast because it resizes only the crop."""
    settings = ClassificationViewSettings(crop=crop, long_side=(80, 80), flip=0.0, **PLAIN)
    view = sample_classification_view(photo, generator(4), settings)
    resized = Image.fromarray(photo).resize((80, 53), Image.Resampling.BICUBIC)
    whole = normalise(np.asarray(resized), (0.5,) * 3, (0.5,) * 3)
    rng = generator(4)
    rng.integers(80, 81)
    expected, _ = random_crop(whole, None, crop, rng)
    # Pillow rounds the corner of the window to float32: one grey level of 2/255.
    np.testing.assert_allclose(view, expected, atol=0.0081)
    assert (view == 0).any() == (crop > 53)


def test_segmentation_view_keeps_mask_on_image(photo):
    mask = (photo[:, :, 0] >= 185).astype(np.uint8)
    for seed in range(8):
        settings = SegmentationViewSettings(crop=64, flip=1.0, **PLAIN)
        view, labels = sample_segmentation_view(photo, mask, generator(seed), settings)
        assert view.shape == (3, 64, 64) and labels.shape == (64, 64) and labels.dtype == np.uint8
        np.testing.assert_array_equal(labels == 255, view[0] == 0)
        red = (view[0] * 0.5 + 0.5) * 255
        inside = (labels != 255) & (np.abs(red - 185) > 3)
        np.testing.assert_array_equal(labels[inside] == 1, red[inside] > 185)
        across = view[0][labels.max(axis=1) < 255]
        assert (np.diff(across, axis=1) <= 0.01).all()


def test_jitter_changes_brightness_contrast_saturation_and_hue(photo):
    np.testing.assert_array_equal(jitter_colours(photo, 0, 0, 0, 0, generator()), photo)
    dark = np.full((4, 4, 3), 100, np.uint8)
    levels = {int(jitter_colours(dark, 0.3, 0, 0, 0, generator(seed))[0, 0, 0]) for seed in range(300)}
    assert min(levels) in (70, 71) and max(levels) in (129, 130)
    grey = np.full((4, 4, 3), 90, np.uint8)
    for changed in (jitter_colours(grey, 0, 0.5, 0.5, 0.5, generator(seed)) for seed in range(5)):
        np.testing.assert_array_equal(changed, grey)
    red = np.zeros((2, 2, 3), np.uint8)
    red[:, :, 0] = 200
    turned = np.array([jitter_colours(red, 0, 0, 0, 0.5, generator(seed))[0, 0] for seed in range(40)])
    assert (turned.max(axis=1) >= 198).all() and (turned.argmax(axis=1) == 2).any()


def test_view_depends_on_the_generator_alone(photo):
    settings = ClassificationViewSettings(crop=40, long_side=(50, 70))
    first = sample_classification_view(photo, generator(9), settings)
    np.testing.assert_array_equal(sample_classification_view(photo, generator(9), settings), first)
    assert not np.array_equal(sample_classification_view(photo, generator(10), settings), first)
    assert first.dtype == np.float32
    assert sample_classification_view(photo[:1, :1], generator(1), replace(settings, crop=3)).shape == (3, 3, 3)


def test_a_small_image_can_be_in_the_corner_with_a_padding_label(photo):
    """MCTformer's released code pads at the right and the bottom, with the mean colour and label 0."""
    settings = SegmentationViewSettings(**PLAIN, crop=100, scale=(1.0, 1.0), flip=0.0, anchor_top_left=True,
                                        padding_label=0)
    mask = np.full(photo.shape[:2], 7, dtype=np.uint8)
    for seed in range(20):
        view, labels = sample_segmentation_view(photo, mask, generator(seed), settings)
        np.testing.assert_array_equal(view[:, :60, :90], normalise(photo, (0.5,) * 3, (0.5,) * 3))
        assert (labels[:60, :90] == 7).all()
        assert not view[:, 60:].any() and not view[:, :, 90:].any()
        assert not labels[60:].any() and not labels[:, 90:].any()
    labels = sample_segmentation_view(photo, mask, generator(), replace(settings, padding_label=None))[1]
    assert (labels[60:] == 255).all() and (labels[:, 90:] == 255).all()


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.3])
def test_bilinear_views_are_windows_of_a_resize_without_antialiasing(factor):
    noise = generator(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    size = (round(60 * factor), round(90 * factor))
    whole = torch.nn.functional.interpolate(torch.from_numpy(noise).permute(2, 0, 1)[None].double(), size=size,
                                            mode="bilinear", align_corners=False)[0].numpy()
    settings = SegmentationViewSettings(**{**PLAIN, "mean": (0.0,) * 3, "std": (1.0,) * 3}, crop=24,
                                        scale=(factor, factor), flip=0.0, resize="bilinear")
    for seed in range(10):
        view, _ = sample_segmentation_view(noise, np.zeros(noise.shape[:2], np.uint8), generator(seed), settings)
        rng = generator(seed)
        rng.uniform()
        top = int(rng.integers(0, size[0] - 24 + 1))
        rng.integers(0, 1)
        left = int(rng.integers(0, size[1] - 24 + 1))
        # Values are rounded to whole levels, by up to half a level.
        assert np.abs(view * 255 - whole[:, top:top + 24, left:left + 24]).max() <= 0.5 + 1e-3
