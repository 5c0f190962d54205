"""Strong augmentation: each operation, how often it is applied, and that views depend on the generator alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stages.data.augment import ClassificationViewSettings, sample_classification_view
from stages.data.rand_augment import (
    AUGMENT_OPERATIONS,
    _compute_central_box,
    _sample_box,
    rand_augment,
    random_erase,
    random_resized_crop,
)

FILL = (124, 116, 104)
STRONG = ClassificationViewSettings(crop=32, area=(0.08, 1.0), rand_augment=9.0, erase=0.25, brightness=0, contrast=0,
                                    saturation=0, hue=0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def apply_operation(name: str, image: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    return np.array(AUGMENT_OPERATIONS[name](Image.fromarray(image), strength, np.random.default_rng(seed), FILL))


class FixedGenerator:
    """A generator that always draws a positive sign and the first interpolation."""

    @staticmethod
    def random() -> float:
        return 0.9

    @staticmethod
    def integers(_high: int) -> int:
        return 0


def test_fifteen_operations_keep_the_size(image):
    assert len(AUGMENT_OPERATIONS) == 15
    for name in AUGMENT_OPERATIONS:
        for strength in (0.0, 0.5, 1.0):
            augmented = apply_operation(name, image, strength)
            assert augmented.shape == image.shape and augmented.dtype == np.uint8, name


@pytest.mark.parametrize("name", ["rotate", "solarize", "solarize-add", "colour", "contrast", "brightness", "sharpness",
                                  "shear-x", "shear-y", "translate-x", "translate-y"])
def test_strength_0_changes_nothing(image, name):
    np.testing.assert_array_equal(apply_operation(name, image, 0.0), image)
    assert not np.array_equal(apply_operation(name, image, 0.9), image)


def test_operations_on_levels(image):
    np.testing.assert_array_equal(apply_operation("invert", image, 0.3), 255 - image)
    np.testing.assert_array_equal(apply_operation("posterize", image, 0.5), image & 0b11000000)
    assert not apply_operation("posterize", image, 1.0).any()
    np.testing.assert_array_equal(apply_operation("solarize", image, 0.5), np.where(image < 128, image, 255 - image))
    np.testing.assert_array_equal(apply_operation("solarize-add", image, 0.5), np.where(image < 128, image + 55, image))
    bright = np.array(AUGMENT_OPERATIONS["brightness"](Image.fromarray(image), 0.5, FixedGenerator(), FILL))
    np.testing.assert_allclose(bright, np.minimum(image * 1.45, 255), atol=1)


def test_operations_on_positions(image):
    source = Image.fromarray(image)
    right = np.array(AUGMENT_OPERATIONS["translate-x"](source, 1 / 3, FixedGenerator(), FILL))  # 0.45 x 1/3 x 60 = 9
    np.testing.assert_array_equal(right[:, :51], image[:, 9:])
    assert (right[:, 51:] == FILL).all()
    down = np.array(AUGMENT_OPERATIONS["translate-y"](source, 1 / 3, FixedGenerator(), FILL))  # 6 of 40
    np.testing.assert_array_equal(down[:34], image[6:])
    tall = np.zeros((60, 60, 3), np.uint8)
    tall[:, 30] = 255
    sheared = np.array(AUGMENT_OPERATIONS["shear-x"](Image.fromarray(tall), 1.0, FixedGenerator(), FILL))[:, :, 0]
    column = [int(np.argmax(row)) for row in sheared[10:50]]
    assert column[0] - column[-1] == pytest.approx(0.3 * 39, abs=1.1)


@pytest.mark.parametrize("name", ["rotate", "brightness", "shear-x", "translate-y"])
def test_both_signs_are_drawn(image, name):
    assert len({apply_operation(name, image, 0.5, seed).tobytes() for seed in range(20)}) >= 2
    if name == "brightness":
        means = [apply_operation(name, image, 0.5, seed).mean() for seed in range(20)]
        assert min(means) < image.mean() < max(means)


def test_two_operations_are_applied_half_of_the_time(image):
    rng = np.random.default_rng(1)
    views = [rand_augment(image, rng, 9.0, (0.5, 0.5, 0.5)) for _ in range(400)]
    unchanged = np.mean([np.array_equal(view, image) for view in views])
    assert unchanged == pytest.approx(0.25, abs=0.08)


def test_crops_have_the_requested_area_and_aspect_ratio():
    rng = np.random.default_rng(2)
    boxes = np.array([_sample_box((300, 400), rng, (0.08, 1.0), (3 / 4, 4 / 3)) or _compute_central_box((300, 400))
                      for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height / (300 * 400)
    assert (boxes[:, :2] >= 0).all() and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    assert 0.078 < area.min() < 0.1 and area.max() > 0.9
    assert 0.74 < (width / height).min() < 0.78 and 1.28 < (width / height).max() < 1.35


def test_a_crop_that_never_fits_is_central():
    assert _compute_central_box((10, 100)) == (43, 0, 56, 10)
    assert _compute_central_box((100, 10)) == (0, 43, 10, 56)
    image = np.zeros((10, 400, 3), np.uint8)
    image[:, 190:210] = 255
    assert (random_resized_crop(image, np.random.default_rng(0), 8, (1.0, 1.0)) == 255).all()


def test_erasing_fills_a_rectangle_with_noise():
    rng, areas = np.random.default_rng(3), []
    for _ in range(300):
        view = random_erase(np.full((3, 64, 64), 9.0, np.float32), rng, 0.5)
        erased = (view != 9).all(0)
        rows, columns = erased.any(1), erased.any(0)
        assert erased.sum() == rows.sum() * columns.sum()
        areas.append(erased.mean())
    areas = np.array(areas)
    assert np.mean(areas > 0) == pytest.approx(0.5, abs=0.1)
    assert areas[areas > 0].min() > 0.015 and 0.25 < areas.max() < 0.36
    noise = random_erase(np.full((3, 64, 64), 9.0, np.float32), np.random.default_rng(4), 1.0)
    assert abs(float(noise[noise != 9].mean())) < 0.2 and float(noise[noise != 9].std()) == pytest.approx(1, abs=0.2)


def test_a_view_depends_on_the_generator_alone(image):
    first, same, other = (sample_classification_view(image, np.random.default_rng(seed), STRONG) for seed in (5, 5, 6))
    assert first.shape == (3, 32, 32) and first.dtype == np.float32
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_pixels_from_outside_have_the_mean_colour(image):
    settings = replace(STRONG, area=(1.0, 1.0), rand_augment=10.0, erase=0.0, flip=0.0, mean=(0.2, 0.4, 0.6))
    views = [sample_classification_view(image, np.random.default_rng(seed), settings) for seed in range(40)]
    # The mean is rounded to 8 bits, so it is 0 within half a level after normalising.
    assert any((np.abs(view).max(0) < 0.01).mean() > 0.1 for view in views)
