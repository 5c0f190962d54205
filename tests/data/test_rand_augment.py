"""The strong views: what each change does, how often, and that a view is a function of the generator alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stages.data.augment import ClassificationView, classification_view
from stages.data.rand_augment import CHANGES, _box, _middle, erase, rand_augment, resized_crop

FILL = (124, 116, 104)
STRONG = ClassificationView(crop=32, area=(0.08, 1.0), rand_augment=9.0, erase=0.25, brightness=0, contrast=0,
                            saturation=0, hue=0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def changed(name: str, image: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return np.array(CHANGES[name](Image.fromarray(image), share, np.random.default_rng(seed), FILL))


class Sign:
    """A generator that always gives a positive sign, and the first way to interpolate."""

    @staticmethod
    def random() -> float:
        return 0.9

    @staticmethod
    def integers(_high: int) -> int:
        return 0


def test_fifteen_changes_that_keep_the_size(image):
    assert len(CHANGES) == 15
    for name in CHANGES:
        for share in (0.0, 0.5, 1.0):
            found = changed(name, image, share)
            assert found.shape == image.shape and found.dtype == np.uint8, name


@pytest.mark.parametrize("name", ["rotate", "solarize", "solarize-add", "colour", "contrast", "brightness", "sharpness",
                                  "shear-x", "shear-y", "translate-x", "translate-y"])
def test_at_magnitude_0_nothing_changes_and_later_it_does(image, name):
    np.testing.assert_array_equal(changed(name, image, 0.0), image)
    assert not np.array_equal(changed(name, image, 0.9), image)


def test_changes_of_levels_by_hand(image):
    np.testing.assert_array_equal(changed("invert", image, 0.3), 255 - image)
    np.testing.assert_array_equal(changed("posterize", image, 0.5), image & 0b11000000)
    assert not changed("posterize", image, 1.0).any()
    np.testing.assert_array_equal(changed("solarize", image, 0.5), np.where(image < 128, image, 255 - image))
    np.testing.assert_array_equal(changed("solarize-add", image, 0.5), np.where(image < 128, image + 55, image))
    bright = np.array(CHANGES["brightness"](Image.fromarray(image), 0.5, Sign(), FILL))
    np.testing.assert_allclose(bright, np.minimum(image * 1.45, 255), atol=1)


def test_changes_of_place_by_hand(image):
    picture = Image.fromarray(image)
    right = np.array(CHANGES["translate-x"](picture, 1 / 3, Sign(), FILL))  # 0.45 x 1/3 x 60 = 9 pixels
    np.testing.assert_array_equal(right[:, :51], image[:, 9:])
    assert (right[:, 51:] == FILL).all()
    down = np.array(CHANGES["translate-y"](picture, 1 / 3, Sign(), FILL))  # 6 of 40
    np.testing.assert_array_equal(down[:34], image[6:])
    tall = np.zeros((60, 60, 3), np.uint8)
    tall[:, 30] = 255
    sheared = np.array(CHANGES["shear-x"](Image.fromarray(tall), 1.0, Sign(), FILL))[:, :, 0]
    column = [int(np.argmax(row)) for row in sheared[10:50]]
    assert column[0] - column[-1] == pytest.approx(0.3 * 39, abs=1.1)


@pytest.mark.parametrize("name", ["rotate", "brightness", "shear-x", "translate-y"])
def test_both_directions_are_drawn(image, name):
    assert len({changed(name, image, 0.5, seed).tobytes() for seed in range(20)}) >= 2
    if name == "brightness":
        means = [changed(name, image, 0.5, seed).mean() for seed in range(20)]
        assert min(means) < image.mean() < max(means)


def test_two_changes_half_of_the_time(image):
    rng = np.random.default_rng(1)
    found = [rand_augment(image, rng, 9.0, (0.5, 0.5, 0.5)) for _ in range(400)]
    unchanged = np.mean([np.array_equal(one, image) for one in found])
    assert unchanged == pytest.approx(0.25, abs=0.08)


def test_parts_have_the_area_and_the_shape_asked_for():
    rng = np.random.default_rng(2)
    boxes = np.array([_box((300, 400), rng, (0.08, 1.0), (3 / 4, 4 / 3)) or _middle((300, 400)) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = width * height / (300 * 400)
    assert (boxes[:, :2] >= 0).all() and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    assert 0.078 < share.min() < 0.1 and share.max() > 0.9
    assert 0.74 < (width / height).min() < 0.78 and 1.28 < (width / height).max() < 1.35


def test_a_part_that_never_fits_is_the_middle():
    assert _middle((10, 100)) == (43, 0, 56, 10)
    assert _middle((100, 10)) == (0, 43, 10, 56)
    image = np.zeros((10, 400, 3), np.uint8)
    image[:, 190:210] = 255
    assert (resized_crop(image, np.random.default_rng(0), 8, (1.0, 1.0)) == 255).all()


def test_erasing_draws_noise_in_a_rectangle():
    rng, shares = np.random.default_rng(3), []
    for _ in range(300):
        view = erase(np.full((3, 64, 64), 9.0, np.float32), rng, 0.5)
        hit = (view != 9).all(0)
        rows, columns = hit.any(1), hit.any(0)
        assert hit.sum() == rows.sum() * columns.sum()
        shares.append(hit.mean())
    shares = np.array(shares)
    assert np.mean(shares > 0) == pytest.approx(0.5, abs=0.1)
    assert shares[shares > 0].min() > 0.015 and 0.25 < shares.max() < 0.36
    noise = erase(np.full((3, 64, 64), 9.0, np.float32), np.random.default_rng(4), 1.0)
    assert abs(float(noise[noise != 9].mean())) < 0.2 and float(noise[noise != 9].std()) == pytest.approx(1, abs=0.2)


def test_a_view_is_a_function_of_the_generator(image):
    one, two, three = (classification_view(image, np.random.default_rng(seed), STRONG) for seed in (5, 5, 6))
    assert one.shape == (3, 32, 32) and one.dtype == np.float32
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


def test_the_colour_that_moves_in_is_the_mean(image):
    view = replace(STRONG, area=(1.0, 1.0), rand_augment=10.0, erase=0.0, flip=0.0, mean=(0.2, 0.4, 0.6))
    made = [classification_view(image, np.random.default_rng(seed), view) for seed in range(40)]
    # Rounded to 8 bits, the mean is 0 within half a level after normalising.
    assert any((np.abs(one).max(0) < 0.01).mean() > 0.1 for one in made)
