"""Create tiny data sets on disk: coloured, textured shapes that a small network can distinguish."""

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
# One colour and one direction of stripes per class, so that both colour and texture identify it.
_COLOURS = ((200, 60, 50), (50, 80, 200), (220, 190, 40), (150, 50, 170), (40, 180, 180), (240, 130, 30))


@dataclass(frozen=True)
class TinyDataset:
    """A data set on disk: its root, class names (position = class id), ids and class ids per image."""

    root: Path
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]


def create_dataset(path: Path | str, n: int = 6, size: tuple[int, int] = (48, 64),
                   classes: Sequence[str] = ("background", "cat", "dog"), seed: int = 0) -> TinyDataset:
    """Write `n` images of (H, W) `size` with exact masks, tags and lists below `path`.

    Files: JPEGImages/ID.jpg, SegmentationClass/ID.png (palette, 255 on the borders), labels.csv (id,labels
    with ';'), ImageSets/Segmentation/train.txt, classes.txt (background first). Equal arguments give equal files.
    """
    root = Path(path)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    ids = tuple(f"picture_{index:03d}" for index in range(n))
    labels = tuple(_choose_labels(index, len(classes) - 1) for index in range(n))
    for image_id, class_ids in zip(ids, labels, strict=True):
        image, mask = draw_image(size, class_ids, random)
        Image.fromarray(image).save(root / "JPEGImages" / f"{image_id}.jpg", quality=95)
        save_mask(mask, root / "SegmentationClass" / f"{image_id}.png")
    _write_lists(root, tuple(classes), ids, labels)
    return TinyDataset(root, tuple(classes), ids, labels)


def draw_image(size: tuple[int, int], class_ids: Sequence[int],
               random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image uint8 (H, W, 3) and its mask uint8 (H, W): one shape per class id, side by side."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (70, 120, 70), float) + (rows / height * 40)[..., None]
    mask = np.zeros(size, np.uint8)
    slot_width = width / max(len(class_ids), 1)
    for slot, class_id in enumerate(class_ids):
        centre = (height * random.uniform(0.42, 0.58), slot_width * (slot + random.uniform(0.42, 0.58)))
        radius = (height * random.uniform(0.24, 0.36), slot_width * random.uniform(0.24, 0.36))
        distance = _compute_distance((rows - centre[0]) / radius[0], (columns - centre[1]) / radius[1], class_id)
        inside = distance <= 1
        image[inside] = _draw_texture(rows, columns, class_id)[inside]
        mask[inside] = class_id
        mask[(distance > 1) & (distance <= 1 + 1 / min(radius))] = IGNORE
    noisy = image + random.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), mask


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write a mask uint8 (H, W) as a palette PNG with the VOC colours."""
    image = Image.fromarray(mask)
    image.putpalette(build_voc_palette())
    image.save(path)


def encode_sbd_mask(ids: np.ndarray, *, compress: bool = True, variable: str = "GTcls", **more: Any) -> bytes:
    """Encode a mask in SBD's .mat format: a struct with a sparse boundary per class, the mask, and its class ids."""
    boundaries = np.empty((20, 1), dtype=object)
    for index in range(20):
        boundaries[index, 0] = sparse.csc_matrix(ids == index + 1)
    class_ids = np.unique(ids[ids > 0]).astype(np.uint8)[:, None]
    fields = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": class_ids, **more}
    struct = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        struct[name][0, 0] = value
    file = io.BytesIO()
    savemat(file, {variable: struct}, do_compression=compress)
    return file.getvalue()


def build_voc_palette() -> list[int]:
    """Return the 256 VOC colours, 3 values each: the bits of the id, spread over red, green and blue."""
    colours = []
    for class_id in range(256):
        for channel in range(3):
            bits = (class_id >> (3 * step + channel) & 1 for step in range(3))
            colours.append(sum(bit << (7 - step) for step, bit in enumerate(bits)))
    return colours


def _choose_labels(index: int, num_classes: int) -> tuple[int, ...]:
    """Return the class ids of an image: each class in turn; every third image has the next class too."""
    if num_classes == 0:
        return ()
    first = index % num_classes
    second = {(first + 1) % num_classes} if index % 3 == 2 else set()
    return tuple(sorted(position + 1 for position in {first} | second))


def _compute_distance(y: np.ndarray, x: np.ndarray, class_id: int) -> np.ndarray:
    """Compute the distance from the centre, for ellipses of odd class ids and boxes of even ones."""
    return np.hypot(y, x) if class_id % 2 else np.maximum(abs(y), abs(x))


def _draw_texture(rows: np.ndarray, columns: np.ndarray, class_id: int) -> np.ndarray:
    angle = class_id * np.pi / 3
    stripes = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 1.2)
    return np.array(_COLOURS[(class_id - 1) % len(_COLOURS)], float) + stripes[..., None] * 35


def _write_lists(root: Path, classes: tuple[str, ...], ids: tuple[str, ...],
                 labels: tuple[tuple[int, ...], ...]) -> None:
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    id_lines = "".join(f"{image_id}\n" for image_id in ids)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(id_lines, encoding="utf-8")
    with (root / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "labels"))
        for image_id, class_ids in zip(ids, labels, strict=True):
            table.writerow((image_id, ";".join(classes[class_id] for class_id in class_ids)))
