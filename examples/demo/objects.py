"""The six objects of the demo images: polygons in a box [-1, 1] x [-1, 1] (y down) with two colours and a pattern."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Points = list[tuple[float, float]]
Colour = tuple[float, float, float]


class Part(NamedTuple):
    """A polygon of an object in its box [-1, 1] x [-1, 1] (y down), filled with two colours and a pattern."""

    points: Points
    pattern: Callable[[np.ndarray, np.ndarray], np.ndarray]
    first: Colour
    second: Colour


# Patterns map object coordinates (u, v) to the share of the second colour, in [0, 1].


def plain_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Fade from the first colour (top) to the second (bottom)."""
    return np.clip(0.5 + 0.6 * v, 0, 1)


def build_stripe_pattern(count: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a pattern of upright stripes as on a balloon, narrower towards the sides."""
    return lambda u, v: (np.mod(np.arcsin(np.clip(u / 0.85, -1, 1)) * count / np.pi, 1) < 0.5).astype(np.float32)


def plank_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return boards with dark seams and grain."""
    return np.maximum(np.mod(v * 9, 1) < 0.22, 0.3 + 0.3 * np.sin(23 * v + 3 * np.sin(5 * u)))


def brick_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return rows of bricks, every second one shifted by half a brick; the second colour is the mortar."""
    course = np.floor(v * 7)
    return np.maximum(np.mod(v * 7, 1) < 0.2, np.mod(u * 3.5 + 0.5 * np.mod(course, 2), 1) < 0.12) * 0.8


def tile_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return overlapping rounded rows: roof tiles, fish scales."""
    row = np.floor(v * 8)
    across = np.mod(u * 6 + 0.5 * np.mod(row, 2), 1) - 0.5
    return np.clip(np.mod(v * 8, 1) - 0.9 + 2.2 * across**2, 0, 0.5) * 2


def rib_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return upright ribs with pale spines."""
    return np.maximum(np.abs(np.sin(22 * u)) ** 3, 0.9 * (np.sin(40 * v) * np.sin(22 * u) > 0.85))


def build_box(left: float, top: float, right: float, bottom: float) -> Points:
    """Return the corners of an upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def build_oval(x: float, y: float, width: float, height: float) -> Points:
    """Return 28 points of an ellipse around (x, y) with these half axes."""
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return [(x + width * np.cos(angle), y + height * np.sin(angle)) for angle in angles]


def sample_colour(rng: np.random.Generator, hues: tuple[float, float], strength: float, light: float) -> Colour:
    """Return a colour with a hue in the given range, and saturation and value near the given ones."""
    saturation, value = np.clip([rng.normal(strength, 0.1), rng.normal(light, 0.08)], 0.05, 1)
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(*hues) % 1, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def build_boat(rng: np.random.Generator) -> list[Part]:
    """Return a wooden hull, mast, one or two sails, sometimes a cabin."""
    wood, dark = sample_colour(rng, (0.0, 0.11), 0.6, 0.55), sample_colour(rng, (0.02, 0.08), 0.6, 0.3)
    cloth = sample_colour(rng, (0, 1), rng.choice([0.08, 0.6]), 0.95)
    parts = [Part(build_box(-0.04, -1, 0.04, 0.4), plain_pattern, dark, dark)]
    if rng.random() < 0.75:
        parts.append(Part([(0.03, -0.95), (0.03, 0.25), (0.85, 0.25)], plank_pattern, cloth, (235, 230, 220)))
    parts.append(Part([(-0.03, -0.8), (-0.03, 0.25), (-0.65, 0.25)], plain_pattern, (240, 238, 228), cloth))
    if rng.random() < 0.4:
        parts.append(Part(build_box(-0.4, 0.1, 0.3, 0.4), plain_pattern, (225, 220, 205), wood))
    hull = [(-1, 0.32), (1, 0.27), (0.93, 0.5), (0.68, 0.85), (-0.62, 0.85), (-0.88, 0.6)]
    return [*parts, Part(hull, plank_pattern, wood, dark),
            Part(build_box(-0.98, 0.33, 0.97, 0.4), plain_pattern, dark, cloth)]


def build_balloon(rng: np.random.Generator) -> list[Part]:
    """Return a striped envelope over a basket on ropes."""
    first, second = sample_colour(rng, (0, 1), 0.8, 0.9), sample_colour(rng, (0, 1), rng.choice([0.15, 0.8]), 0.9)
    rope, wicker = (70.0, 55.0, 45.0), sample_colour(rng, (0.07, 0.1), 0.6, 0.55)
    ropes = [[(s * 0.28, 0.5), (s * 0.33, 0.5), (s * 0.17, 0.85), (s * 0.12, 0.85)] for s in (-1, 1)]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    envelope = [(0.76 * np.sin(angle) * (1 - 0.3 * max(-np.cos(angle), 0) ** 2), -0.2 - 0.8 * np.cos(angle))
                for angle in angles]
    envelope = [(x, y) for x, y in envelope if y < 0.52]
    return [
        *(Part(points, plain_pattern, rope, rope) for points in ropes),
        Part(envelope, build_stripe_pattern(rng.integers(4, 8)), first, second),
        Part(build_box(-0.2, 0.76, 0.2, 1), lambda u, v: np.sin(40 * u) * np.sin(40 * v) > 0, wicker, rope),
    ]


def build_cactus(rng: np.random.Generator) -> list[Part]:
    """Return a ribbed trunk with one or two arms, sometimes in bloom."""
    green, dark = sample_colour(rng, (0.24, 0.42), 0.55, 0.6), sample_colour(rng, (0.28, 0.42), 0.7, 0.32)
    crown = sorted((x, y) for x, y in build_oval(0, -0.78, 0.24, 0.22) if y <= -0.77)
    trunk = [*crown, (0.24, 1.0), (-0.24, 1.0)]
    parts = [Part(trunk, rib_pattern, green, dark)]
    for side in (-1, 1)[: rng.integers(1, 3)]:
        low, high = rng.uniform(0.05, 0.5), rng.uniform(-0.65, -0.25)
        arm = [(0.15, low), (0.8, low), (0.86, low - 0.1), (0.86, high + 0.06), (0.74, high), (0.6, high)]
        arm += [(0.52, high + 0.08), (0.52, low - 0.3), (0.15, low - 0.3)]
        parts.append(Part([(side * x, y) for x, y in arm], rib_pattern, green, dark))
    if rng.random() < 0.4:
        parts.append(Part(build_oval(0, -0.95, 0.13, 0.08), plain_pattern,
                          *(sample_colour(rng, (0.85, 1), 0.6, 0.95),) * 2))
    return parts


def build_car(rng: np.random.Generator) -> list[Part]:
    """Return a body, a cabin with two windows, wheels and lamps."""
    body, shade = sample_colour(rng, (0, 1), rng.choice([0.1, 0.75]), 0.85), (60.0, 55.0, 60.0)
    roof = rng.uniform(-0.62, -0.48)
    cabin = [(-0.68, -0.05), (-0.45, roof), (0.25, roof), (0.6, -0.05)]
    panes = [[(-0.55, -0.07), (-0.4, roof + 0.08), (-0.12, roof + 0.08), (-0.12, -0.07)],
             [(-0.04, -0.07), (-0.04, roof + 0.08), (0.21, roof + 0.08), (0.47, -0.07)]]
    lower = [(-1, 0.05), (-0.9, -0.08), (0.6, -0.08), (0.95, 0.05), (1, 0.18), (1, 0.42), (-1, 0.42)]
    wheels = [build_oval(x, 0.42, 0.21, 0.21) for x in (-0.56, 0.56)]
    hubs = [build_oval(x, 0.42, 0.1, 0.1) for x in (-0.56, 0.56)]
    return [
        Part(cabin, plain_pattern, body,
             body), *(Part(points, plain_pattern, (205, 225, 235), (90, 115, 135)) for points in panes),
        Part(lower, plain_pattern, body, shade), Part(build_box(0.86, 0.1, 1, 0.22), plain_pattern, (255, 240, 170),
                                                      (255, 220, 120)),
        *(Part(points, plain_pattern, (35, 35, 38), (20, 20, 22)) for points in wheels),
        *(Part(points, plain_pattern, (190, 190, 195), (130, 130, 135)) for points in hubs),
    ]


def build_fish(rng: np.random.Generator) -> list[Part]:
    """Return a scaly body, tail, fins and an eye."""
    first = sample_colour(rng, rng.choice([[0.0, 0.16], [0.75, 1.0]]), 0.75, 0.95)
    second, fin = sample_colour(rng, (0, 0.15), 0.7, 0.6), sample_colour(rng, (0, 0.17), 0.8, 0.85)
    depth = rng.uniform(0.38, 0.52)
    tail = [(-0.5, 0), (-1, -0.48), (-0.86, 0), (-1, 0.48)]
    back = [(-0.3, -depth * 0.8), (-0.1, -depth - 0.25), (0.3, -depth * 0.9), (0.2, -depth * 0.5)]
    return [
        Part(tail, build_stripe_pattern(9), fin, second), Part(back, build_stripe_pattern(9), fin, second),
        Part(build_oval(0.15, 0, 0.8, depth), tile_pattern, first, second),
        Part([(0.1, 0.1), (-0.25, 0.42), (0.25, 0.28)], plain_pattern, fin, second),
        Part(build_oval(0.64, -0.12, 0.1, 0.1), plain_pattern, (250, 250, 245), (250, 250, 245)),
        Part(build_oval(0.66, -0.12, 0.05, 0.05), plain_pattern, (15, 15, 20), (15, 15, 20)),
    ]


def build_house(rng: np.random.Generator) -> list[Part]:
    """Return brick walls under a tiled roof, door, windows, sometimes a chimney."""
    wall = sample_colour(rng, (0.0, 0.12), rng.choice([0.25, 0.6]), 0.72)
    roof, dark = sample_colour(rng, (0, 1), 0.45, 0.45), (50.0, 42.0, 45.0)
    pane = ((250, 235, 160), (230, 200, 120)) if rng.random() < 0.3 else ((185, 210, 225), (80, 105, 130))
    gable, top = rng.uniform(0, 0.45), rng.uniform(-1, -0.75)
    parts = [Part(build_box(0.42, -0.95, 0.62, -0.2), brick_pattern, wall, dark)] if rng.random() < 0.6 else []
    parts.append(Part(build_box(-0.82, -0.2, 0.82, 1), brick_pattern, wall, (215, 208, 198)))
    parts.append(Part([(-1, -0.15), (-gable, top), (gable, top), (1, -0.15)], tile_pattern, roof, dark))
    door = rng.choice([-0.45, 0.0, 0.45])
    parts.append(Part(build_box(door - 0.15, 0.4, door + 0.15, 1), plank_pattern, sample_colour(rng, (0, 1), 0.6, 0.5),
                      dark))
    for x in {-0.45, 0.0, 0.45} - {float(door)}:
        parts.append(Part(build_box(x - 0.18, 0.08, x + 0.18, 0.5), plain_pattern, (245, 245, 240), (235, 235, 230)))
        parts.append(Part(build_box(x - 0.14, 0.12, x + 0.14, 0.46), plain_pattern, *pane))
    return parts


# Functions of the random generator; the position in this table is the class id - 1.
OBJECT_BUILDERS = {"balloon": build_balloon, "boat": build_boat, "cactus": build_cactus, "car": build_car,
                   "fish": build_fish, "house": build_house}
