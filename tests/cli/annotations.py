"""An image of 40 x 60, its index, and the shapes that the tests of annotation formats outline on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from cli.runner import run
from stages.data.image_source import ImageSource
from stages.shards import Shard

HEIGHT, WIDTH = 40, 60
SQUARE = [5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]
INNER = [10.2, 10.7, 20.1, 11.3, 14.9, 21.6]
PAINTED = np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.4


def save_image(path: Path) -> Path:
    """Write an image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    return path


def index_layout(layout: str, path: Path, *more: object):
    return run("index", layout, path, "-o", path.parent / "i.h5", "-f", *more)


def read_items(path: Path) -> dict[str, tuple]:
    """Return (labels, mask or None) by id of the index next to `path`."""
    source = ImageSource(Shard(path.parent / "i.h5"))
    return {name: (source.read_labels(name), source.read_mask(name) if source.has_mask(name) else None)
            for name in source.index.ids}


def read_classes(path: Path) -> tuple[str, ...]:
    return Shard(path.parent / "i.h5").classes


def draw_polygon(points: list[float]) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects([points], HEIGHT, WIDTH))[..., 0] > 0


def check_mask(mask: np.ndarray | None, expected: np.ndarray) -> None:
    assert mask is not None
    np.testing.assert_array_equal(mask, expected)


def to_pairs(points: list[float]) -> list[list[float]]:
    return np.reshape(points, (-1, 2)).tolist()
