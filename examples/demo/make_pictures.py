"""Draw a small data set in VOC layout: textured objects of six classes in typical scenes, with exact masks.

    python make_pictures.py OUT --train 300 --val 80 --size 128 --seed 0

Boats float on water, balloons are in the sky, four of five cars stand in front of a house: as on photographs, an
image-level classifier learns the surroundings along with the objects. Needs numpy and Pillow. Image n depends only on
(seed, n); the validation images follow the last training image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from objects import OBJECT_BUILDERS, Colour, Part, build_box, build_oval, sample_colour
from PIL import Image, ImageDraw

CLASSES = ("background", *OBJECT_BUILDERS)
SUPERSAMPLING = 3
# Probability of a second object by main object: about 40 % of the images show two classes.
COMPANIONS = {
    "boat": {"balloon": 0.2, "fish": 0.25}, "balloon": {"house": 0.2, "cactus": 0.15}, "fish": {"boat": 0.25},
    "cactus": {"balloon": 0.2, "car": 0.08}, "house": {"car": 0.15, "balloon": 0.15}, "car": {"house": 0.85},
}
USUAL_GROUNDS = {
    "boat": "sea", "balloon": "meadow", "cactus": "desert", "car": "street", "fish": "depths", "house": "meadow",
}
OUT_OF_PLACE = 0.05  # probability of an object in an unusual scene
# Two colours, mixed by a noise field of (rows, columns) cells.
GROUNDS = {
    "sea": ((28, 84, 128), (96, 160, 186), (40, 6)), "meadow": ((62, 112, 44), (130, 164, 72), (32, 32)),
    "desert": ((202, 164, 104), (236, 208, 150), (14, 10)), "street": ((88, 88, 94), (122, 120, 122), (48, 48)),
    "depths": ((14, 70, 104), (42, 128, 150), (12, 5)),
}
# Share of its box that an object covers.
FILL = {"boat": 0.31, "balloon": 0.42, "cactus": 0.3, "car": 0.35, "fish": 0.3, "house": 0.55}
# Where an object touches the ground, in its box.
BOTTOM = {"balloon": 1.0, "boat": 0.8, "cactus": 1.0, "car": 0.63, "fish": 0.5, "house": 1.0}

Fill = Colour | Callable[[np.ndarray, np.ndarray], np.ndarray]


class Canvas:
    """An image being drawn: `image` (S, S, 3) float32 in [0, 255] and `mask` (S, S) uint8 of class ids."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        self.image = np.zeros((size, size, 3), np.float32)
        self.mask = np.zeros((size, size), np.uint8)

    def draw_noise(self, rows: int, columns: int) -> np.ndarray:
        """Return a smooth random field (S, S) in about [0, 1] with the given number of cells per side."""
        cells = Image.fromarray(self.rng.random((rows, columns), np.float32))
        return np.asarray(cells.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def paint(self, points: np.ndarray, fill: Fill, opacity: float = 1.0, name: str = "") -> None:
        """Blend `fill`, a colour or a function of the rows and columns, into the polygon of pixel `points` (P, 2).

        With a class name, pixels that are covered by half or more get that class in the mask.
        """
        left, top = np.clip(np.floor(points.min(0)), 0, self.size).astype(int).tolist()
        right, bottom = np.clip(np.ceil(points.max(0)), 0, self.size).astype(int).tolist()
        if right <= left or bottom <= top:
            return
        polygon = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
        corners = ((points - (left, top)) * SUPERSAMPLING).tolist()
        ImageDraw.Draw(polygon).polygon([tuple(corner) for corner in corners], fill=255)
        coverage = np.asarray(polygon.reduce(SUPERSAMPLING), np.float32)[..., None] / 255
        window = np.s_[top:bottom, left:right]
        colours = fill(*np.ogrid[window]) if callable(fill) else np.asarray(fill, np.float32)
        self.image[window] += opacity * coverage * (colours - self.image[window])
        if name:
            self.mask[window][coverage[..., 0] >= 0.5] = CLASSES.index(name)


def draw_object(canvas: Canvas, name: str, centre: tuple[float, float], half: float) -> None:
    """Draw an object of the class around `centre` (x, y); `half` is half the side of its box, both in pixels."""
    rng, size = canvas.rng, canvas.size
    angle = np.radians(rng.normal(0, {"fish": 14, "balloon": 7, "boat": 5}.get(name, 1.5)))
    half_width, half_height = half * rng.uniform(0.92, 1.08, 2) * (rng.choice([-1, 1]), 1)
    sun = rng.choice([-0.16, 0.16])
    grain = 0.16 * (canvas.draw_noise(size // 3, size // 3) - 0.5)
    for part in OBJECT_BUILDERS[name](rng):

        def fill(rows: np.ndarray, columns: np.ndarray, part: Part = part) -> np.ndarray:
            x, y = columns + np.float32(0.5 - centre[0]), rows + np.float32(0.5 - centre[1])
            u = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32) / np.float32(half_width)
            v = (np.cos(angle) * y - np.sin(angle) * x).astype(np.float32) / np.float32(half_height)
            mixed = np.asarray(part.pattern(u, v), np.float32)[..., None]
            light = 1.02 - sun * columns / size - 0.1 * np.clip(v, -1, 1) + grain[rows, columns]
            colours = np.float32(part.first) * (1 - mixed) + np.float32(part.second) * mixed
            return np.clip(colours * light[..., None].astype(np.float32), 0, 255)

        across, down = (np.array(part.points) * (half_width, half_height)).T
        rotated = [np.cos(angle) * across - np.sin(angle) * down, np.sin(angle) * across + np.cos(angle) * down]
        canvas.paint(np.stack(rotated, 1) + centre, fill, name=name)


def paint_sky(canvas: Canvas, horizon: float) -> None:
    """Fill the canvas with a sky: a gradient, clouds, sometimes a sun and distant hills."""
    rng, rows = canvas.rng, np.linspace(0, 1, canvas.size, dtype=np.float32)[:, None, None]
    top = np.array(sample_colour(rng, (0.54, 0.62), 0.5, 0.85), np.float32)
    low = np.array(sample_colour(rng, rng.choice([[0.5, 0.6], [0.04, 0.1]]), 0.18, 0.95), np.float32)
    canvas.image[:] = top * (1 - rows) + low * rows
    clouds = np.clip(2.5 * canvas.draw_noise(7, 4) + canvas.draw_noise(18, 12) - rng.uniform(1.9, 2.6), 0, 0.85)[...,
                                                                                                                 None]
    canvas.image += clouds * (np.float32(246) - canvas.image)
    if rng.random() < 0.25:
        spot = rng.uniform([0.1, 0.08], [0.9, 0.3]) * canvas.size
        canvas.paint(np.array(build_oval(*spot, *[canvas.size * 0.06] * 2)), (255, 238, 170))
    if rng.random() < 0.6:
        across = np.linspace(0, canvas.size, 9)
        heights = horizon - canvas.size * rng.uniform(0.02, 0.16, 9)
        outline = [*zip(across, heights, strict=True), (canvas.size, horizon + 2), (0, horizon + 2)]
        canvas.paint(np.array(outline), sample_colour(rng, (0.25, 0.65), 0.3, 0.6))


def paint_ground(canvas: Canvas, kind: str, top: float) -> None:
    """Fill the canvas below row `top` with sea, meadow, desert, street or depths, darker towards the bottom."""
    first, second, cells = GROUNDS[kind]
    rng = canvas.rng
    mixed = np.clip(0.65 * canvas.draw_noise(*cells) + 0.45 * canvas.draw_noise(6, 4), 0, 1)[..., None]
    depth = np.linspace(1.12, 0.85, canvas.size, dtype=np.float32)[:, None, None]
    tint = rng.normal(1, 0.05, 3).astype(np.float32) * depth
    start = round(top)
    colours = (np.array(first, np.float32) * (1 - mixed) + np.array(second, np.float32) * mixed) * tint
    canvas.image[start:] = colours[start:]


def paint_litter(canvas: Canvas, kind: str, top: float) -> None:
    """Draw background objects: rocks, bushes, posts, birds, weeds and bubbles."""
    rng, size = canvas.rng, canvas.size
    for _ in range(rng.integers(1, 5)):
        x, y, r = rng.uniform(0, size), rng.uniform(top, size), size * rng.uniform(0.03, 0.075)
        if kind == "depths" and rng.random() < 0.6:
            canvas.paint(np.array(build_oval(x, y, r * 0.6, r * 0.6)), (190, 225, 230), 0.5)
        elif kind == "depths":
            sway = [(x + r * np.sin(k), size - k * r) for k in range(7)]
            canvas.paint(np.array(sway + [(a + r * 0.9, b) for a, b in sway[::-1]]), (38, 92, 52))
        elif kind == "meadow":
            canvas.paint(np.array(build_oval(x, y, r * 1.6, r)), sample_colour(rng, (0.22, 0.38), 0.55, 0.4))
        elif kind == "street" and rng.random() < 0.5:
            canvas.paint(np.array(build_box(x, top - 5 * r, x + r * 0.4, top + 2)), (70, 70, 74))
        elif kind != "sea":
            rock = [(x - r, y), (x - r * 0.6, y - r), (x + r * 0.5, y - r * 0.8), (x + r, y)]
            canvas.paint(np.array(rock), sample_colour(rng, (0.05, 0.12), 0.15, 0.5))
        elif top > size * 0.2:
            y = rng.uniform(0.05, 0.9) * top
            wings = [(x - r, y - r * 0.5), (x, y), (x + r, y - r * 0.5), (x, y + r * 0.3)]
            canvas.paint(np.array(wings), (60, 62, 70))


def choose_classes(rng: np.random.Generator, main: str) -> list[str]:
    """Return the main class and perhaps a second one, with the probabilities of COMPANIONS."""
    draw, total = rng.random(), 0.0
    for name, share in COMPANIONS[main].items():
        total += share
        if draw < total:
            return [main, name]
    return [main]


def choose_ground(rng: np.random.Generator, names: list[str]) -> tuple[str, float]:
    """Return the kind of ground for these objects and the row where it starts, as a share of the height."""
    if "fish" in names:
        return "depths", rng.uniform(0.36, 0.5) if "boat" in names else 0.0
    on_ground = [name for name in names if name != "balloon"]
    if not on_ground:
        return str(rng.choice(["sea", "meadow", "meadow", "desert"])), rng.uniform(0.75, 0.97)
    kind = USUAL_GROUNDS[on_ground[0]]
    if rng.random() < OUT_OF_PLACE:
        kind = str(rng.choice(["sea", "meadow", "desert", "street"]))
    return kind, rng.uniform(0.42, 0.66)


def choose_centre(rng: np.random.Generator, name: str, half: float, top: float, side: float) -> tuple[float, float]:
    """Return the centre of an object, in shares of the image; `side` -1: left, 0: anywhere, 1: right."""
    x = 0.5 + side * rng.uniform(0.18, 0.3) if side else rng.uniform(min(half, 0.5), max(1 - half, 0.5))
    if name == "balloon":
        low = max(half * 0.95, 0.05)
        return x, rng.uniform(low, max(low, min(0.6, top) - half * 0.3))
    if name == "fish":
        return x, rng.uniform(min(top + half * 0.5, 0.85), max(0.9 - half * 0.4, min(top + half * 0.5, 0.85)))
    rest = top + 0.06 if name == "boat" and top < 0.52 and half < 0.3 else rng.uniform(top + 0.08, 0.97)
    return x, max(rest - BOTTOM[name] * half, half * 0.75)


def draw_picture(rng: np.random.Generator, main: str, size: int) -> Canvas:
    """Draw an image around an object of class `main`."""
    canvas, names = Canvas(size, rng), choose_classes(rng, main)
    kind, top = choose_ground(rng, names)
    if top > 0:
        paint_sky(canvas, top * size)
    paint_ground(canvas, kind, top * size)
    paint_litter(canvas, kind, top * size)
    side = rng.choice([-1, 1]) if len(names) > 1 else 0
    objects = []
    for name in names:
        share = np.exp(rng.uniform(*np.log([0.1, 0.26] if len(names) > 1 else [0.1, 0.42])))
        half = float(min(0.5 * np.sqrt(share / FILL[name]), 0.5 if len(names) == 1 else 0.38))
        objects.append((name, half, *choose_centre(rng, name, half, top, side if name == main else -side)))
    for name, half, x, y in sorted(objects,
                                   key=lambda entry: entry[3] + entry[1] * BOTTOM[entry[0]]):  # distant ones first
        if name not in ("balloon", "fish"):  # objects on the ground have a shadow
            shadow = build_oval(x * size, (y + half * BOTTOM[name]) * size, half * 1.05 * size, half * 0.16 * size)
            canvas.paint(np.array(shadow), (20, 24, 30), 0.4)
        draw_object(canvas, name, (x * size, y * size), half * size)
    noisy_image = canvas.image * rng.normal(1, 0.05, 3).astype(np.float32) + np.float32(rng.normal(0, 8))
    noisy_image += 6 * rng.standard_normal(noisy_image.shape, np.float32)
    canvas.image = np.clip(noisy_image, 0, 255)
    return canvas


def mark_borders(mask: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) with 255 where a pixel differs from its right or lower neighbour."""
    bordered = mask.copy()
    bordered[:, :-1][mask[:, :-1] != mask[:, 1:]] = 255
    bordered[:-1][mask[:-1] != mask[1:]] = 255
    return bordered


def build_palette() -> list[int]:
    """Return the colours of the VOC devkit for ids 0-255: the bits of an id distributed to red, green and blue."""
    ids = np.arange(256)[:, None]
    return sum(((ids >> (3 * bit + np.arange(3))) & 1) << (7 - bit) for bit in range(3)).ravel().tolist()


def write_picture(out: Path, name: str, canvas: Canvas, border: bool, colours: list[int]) -> list[str]:
    """Write the image and its mask, and return the names of the classes in the mask."""
    Image.fromarray(canvas.image.astype(np.uint8)).save(out / "JPEGImages" / f"{name}.jpg", quality=92)
    mask = Image.fromarray(mark_borders(canvas.mask) if border else canvas.mask)
    mask.putpalette(colours)
    mask.save(out / "SegmentationClass" / f"{name}.png")
    return [CLASSES[index] for index in np.unique(canvas.mask) if index]


def write_dataset(out: Path, counts: dict[str, int], size: int, seed: int, border: bool = False) -> None:
    """Draw the data set: `counts` images per split, of `size` pixels per side."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows, number, colours = ["id,labels"], 0, build_palette()
    for split, count in counts.items():
        names = [f"scene_{number + position:04d}" for position in range(count)]
        for name in names:
            rng = np.random.default_rng([seed, number])
            canvas = draw_picture(rng, CLASSES[1 + number % (len(CLASSES) - 1)], size)
            rows.append(f"{name},{';'.join(write_picture(out, name, canvas, border, colours))}")
            number += 1
        (out / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (out / "labels.csv").write_text("\n".join(rows) + "\n")
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def main() -> None:
    """Draw the data set of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--train", type=int, default=300, help="Number of training images (default 300).")
    parser.add_argument("--val", type=int, default=80, help="Number of validation images (default 80).")
    parser.add_argument("--size", type=int, default=128, help="Pixels per side (default 128).")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--border", action="store_true", help="Mark a 1-pixel border between objects as 255.")
    arguments = parser.parse_args()
    counts = {"train": arguments.train, "val": arguments.val}
    write_dataset(arguments.out, counts, arguments.size, arguments.seed, arguments.border)


if __name__ == "__main__":
    main()
