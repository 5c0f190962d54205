"""Tiny data sets on disk: coloured, textured shapes that a small network can tell apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import sparse
from scipy.io import savemat

IGNORE = 255
# One colour and one direction of stripes per class, so that colour and texture both tell it.
_COLOURS = ((200, 60, 50), (50, 80, 200), (220, 190, 40), (150, 50, 170), (40, 180, 180), (240, 130, 30))


@dataclass(frozen=True)
class Folder:
    """A data set on disk: its root, class names (position = class id), ids and class ids per image."""

    root: Path
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]


def make_folder(path: Path | str, n: int = 6, size: tuple[int, int] = (48, 64),
                classes: Sequence[str] = ("background", "cat", "dog"), seed: int = 0) -> Folder:
    """Write `n` pictures of (H, W) `size` with exact masks, tags and lists below `path`; return what is there.

    Files: JPEGImages/ID.jpg, SegmentationClass/ID.png (palette, 255 on the borders), labels.csv (id,labels
    with ';'), ImageSets/Segmentation/train.txt, classes.txt (background first). Equal arguments give equal files.
    """
    root = Path(path)
    for below in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / below).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    ids = tuple(f"picture_{number:03d}" for number in range(n))
    labels = tuple(_tags(number, len(classes) - 1) for number in range(n))
    for name, present in zip(ids, labels, strict=True):
        image, mask = draw(size, present, random)
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        save_mask(mask, root / "SegmentationClass" / f"{name}.png")
    _write_lists(root, tuple(classes), ids, labels)
    return Folder(root, tuple(classes), ids, labels)


def draw(size: tuple[int, int], present: Sequence[int],
         random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture uint8 (H, W, 3) and its mask uint8 (H, W): one shape per class id, side by side."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (70, 120, 70), float) + (rows / height * 40)[..., None]
    mask = np.zeros(size, np.uint8)
    room = width / max(len(present), 1)
    for place, class_id in enumerate(present):
        centre = (height * random.uniform(0.42, 0.58), room * (place + random.uniform(0.42, 0.58)))
        radius = (height * random.uniform(0.24, 0.36), room * random.uniform(0.24, 0.36))
        distance = _distance((rows - centre[0]) / radius[0], (columns - centre[1]) / radius[1], class_id)
        inside = distance <= 1
        image[inside] = _texture(rows, columns, class_id)[inside]
        mask[inside] = class_id
        mask[(distance > 1) & (distance <= 1 + 1 / min(radius))] = IGNORE
    noisy = image + random.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), mask


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write a mask uint8 (H, W) as a palette PNG with the VOC colours."""
    picture = Image.fromarray(mask)
    picture.putpalette(voc_palette())
    picture.save(path)


def sbd_mask(ids: np.ndarray, *, compress: bool = True, variable: str = "GTcls", **more: Any) -> bytes:
    """Return a .mat file as SBD has it: a struct with a sparse boundary per class, the mask, and what is in it."""
    boundaries = np.empty((20, 1), dtype=object)
    for place in range(20):
        boundaries[place, 0] = sparse.csc_matrix(ids == place + 1)
    present = np.unique(ids[ids > 0]).astype(np.uint8)[:, None]
    fields = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": present, **more}
    whole = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        whole[name][0, 0] = value
    file = io.BytesIO()
    savemat(file, {variable: whole}, do_compression=compress)
    return file.getvalue()


def voc_palette() -> list[int]:
    """Return the 256 VOC colours, 3 values each: the bits of the id, spread over red, green and blue."""
    colours = []
    for class_id in range(256):
        for channel in range(3):
            bits = (class_id >> (3 * step + channel) & 1 for step in range(3))
            colours.append(sum(bit << (7 - step) for step, bit in enumerate(bits)))
    return colours


def _tags(number: int, count: int) -> tuple[int, ...]:
    """Give every class in turn; every third picture has the next class too."""
    if count == 0:
        return ()
    first = number % count
    second = {(first + 1) % count} if number % 3 == 2 else set()
    return tuple(sorted(one + 1 for one in {first} | second))


def _distance(down: np.ndarray, across: np.ndarray, class_id: int) -> np.ndarray:
    """Ellipses for odd class ids, boxes for even ones."""
    return np.hypot(down, across) if class_id % 2 else np.maximum(abs(down), abs(across))


def _texture(rows: np.ndarray, columns: np.ndarray, class_id: int) -> np.ndarray:
    angle = class_id * np.pi / 3
    stripes = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 1.2)
    return np.array(_COLOURS[(class_id - 1) % len(_COLOURS)], float) + stripes[..., None] * 35


def _write_lists(root: Path, classes: tuple[str, ...], ids: tuple[str, ...],
                 labels: tuple[tuple[int, ...], ...]) -> None:
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    listed = "".join(f"{name}\n" for name in ids)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(listed, encoding="utf-8")
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "labels"))
        for name, present in zip(ids, labels, strict=True):
            table.writerow((name, ";".join(classes[class_id] for class_id in present)))
