"""Heat over a photograph is visible on every photograph, in grey, and faint where the score is low."""

from __future__ import annotations

import numpy as np
import pytest

from data.colour_science import simulate_deuteranopia, to_cielab
from stages.data.draw import colour_cams
from stages.data.heat_maps import (
    CONTOUR_COLOUR,
    colour_heat_map,
    compute_strength,
    draw_backdrop,
    draw_colour_bar,
    find_inner_border,
    overlay_heat_map,
)

SIZE = (40, 60)


def build_photographs() -> dict[str, np.ndarray]:
    """Return photographs on which heat maps are often invisible."""
    random = np.random.default_rng(0)
    colours = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "red": (255, 0, 0),
               "yellow": (255, 244, 101), "blue": (17, 0, 88), "green": (4, 181, 124)}
    photographs = {name: np.full((*SIZE, 3), colour, np.uint8) for name, colour in colours.items()}
    photographs["noise"] = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    checks = (np.add.outer(np.arange(SIZE[0]) // 4, np.arange(SIZE[1]) // 4) % 2 * 255).astype(np.uint8)
    photographs["night"] = photographs["noise"] // 12
    return {**photographs, "checks": np.repeat(checks[..., None], 3, axis=2)}


def build_map(seed: int) -> np.ndarray:
    """Return a map of two blobs, with values below 0.1 and above 0.5."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    centres = random.uniform((10, 10), (30, 50), (2, 2))
    blobs = [np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / random.uniform(30, 120)) for y, x in centres]
    values = np.maximum(*blobs)
    return (values / values.max()).astype(np.float32)


def split_hot_and_cold(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hot = values > 0.5
    return hot & ~find_inner_border(values >= 0.5), values < 0.05


@pytest.mark.parametrize("name", list(build_photographs()))
def test_heat_is_visible_on_every_photograph(name):
    """Each hot pixel differs from the photograph without heat, and from all cold pixels, also for deuteranopes.

    The bounds follow from the colours: a value of 0.5 has L* 53 and an opacity of 0.92, and the photograph has at most
    L* 31, so that hot pixels are lighter by 0.92 * 22 = 20, or by 14 if they are black and the cold ones white.
    """
    photograph = build_photographs()[name]
    for seed in range(25):
        values = build_map(seed)
        hot, cold = split_hot_and_cold(values)
        drawn, plain = overlay_heat_map(photograph, values, 0.9), draw_backdrop(photograph)
        for convert in (to_cielab, simulate_deuteranopia):
            lab, plain_lab = convert(drawn), convert(plain)
            assert np.linalg.norm(lab[hot] - plain_lab[hot], axis=1).min() >= 20
            assert lab[hot][:, 0].min() - plain_lab[hot][:, 0].max() >= 10
            assert lab[hot][:, 0].min() - lab[cold][:, 0].max() >= 10


@pytest.mark.parametrize("class_id", range(1, 26))
def test_heat_in_class_colours_is_visible_on_every_photograph(class_id):
    values = build_map(class_id)
    hot, cold = split_hot_and_cold(values)
    for photograph in build_photographs().values():
        lab = to_cielab(colour_cams(values[None], [class_id], image=photograph, scores=[0.9]))
        plain = to_cielab(draw_backdrop(photograph))
        assert np.linalg.norm(lab[hot] - plain[hot], axis=1).min() >= 20
        assert lab[hot][:, 0].min() - max(plain[hot][:, 0].max(), lab[cold][:, 0].max()) >= 10


def test_dark_photographs_are_brightened_under_heat():
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    night, day = (draw_backdrop(photograph).astype(float) for photograph in (noise // 12, noise))
    assert night.std() > 0.25 * day.std() and night.max() <= 72
    assert (draw_backdrop(noise // 12 * 0) == 18).all()


def test_the_contour_of_one_half_is_drawn_inside():
    values = np.zeros(SIZE, np.float32)
    values[10:20, 10:20] = 0.5
    drawn = overlay_heat_map(np.zeros((*SIZE, 3), np.uint8), values).astype(float)
    assert drawn[10, 10:20].min() > 0.75 * CONTOUR_COLOUR
    assert np.ptp(drawn[11:19, 11:19].reshape(-1, 3), axis=0).max() == 0
    assert drawn[9, 9:21].max() < 30


def test_heat_is_faint_where_the_score_is_low():
    photograph = build_photographs()["checks"]
    values = build_map(3)
    hot, _ = split_hot_and_cold(values)
    plain = to_cielab(draw_backdrop(photograph))[hot]
    differences = [np.linalg.norm(to_cielab(overlay_heat_map(photograph, values, score))[hot] - plain, axis=1).mean()
                   for score in (0.0, 0.01, 0.1, 0.3, 0.9)]
    assert (np.diff(differences) > 0).all()
    assert 2 < differences[1] < 0.35 * differences[-1], "visible, but not as a detection"
    assert compute_strength(None) == compute_strength(0.5) == compute_strength(1.0) == 1


def test_heat_map_gets_lighter_in_nearly_equal_steps_from_blue_to_yellow():
    colours = colour_heat_map(np.linspace(0, 1, 65)[None])[0]
    lightness = to_cielab(colours)[:, 0]
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.mean()
    assert colours[0].argmax() == 2 and colours[-1].argmin() == 2


def test_values_outside_the_range_are_clipped_and_nan_is_grey():
    assert (colour_heat_map(np.array([[-1.0, 2.0]])) == colour_heat_map(np.array([[0.0, 1.0]]))).all()
    assert colour_heat_map(np.array([[np.nan]])).tolist() == [[[128, 128, 128]]]


def test_the_colour_bar_shows_the_heat_of_its_score():
    bar = draw_colour_bar(101, 4, 0.9)
    values = np.broadcast_to(np.linspace(0, 1, 101, dtype=np.float32), (4, 101))
    grey = np.full((4, 101, 3), 128, np.uint8)
    drawn = overlay_heat_map(grey, values, 0.9)
    same = (bar == drawn).all(axis=2)
    assert same[:, :50].all() and same[:, 52:].all(), "except for the contour"
    assert np.ptp(to_cielab(draw_colour_bar(101, 4, 0.01))[..., 0]) < 0.4 * np.ptp(to_cielab(bar)[..., 0])


def test_a_map_of_another_size_is_rejected():
    with pytest.raises(ValueError, match="40, 60"):
        overlay_heat_map(np.zeros((*SIZE, 3), np.uint8), np.zeros((40, 59)))
