"""Divides the images of an index into training images and held-out images (`index split --holdout`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.errors import BadData
from stages.kernels.stratified_split import select_held_out

_MAX_LISTED_CLASSES = 8


def divide_images(labels: Sequence[np.ndarray | None], groups: np.ndarray, num_classes: int, share: float,
                  seed: int, where: str) -> np.ndarray:
    """Return which images are held out, bool (N,), every class in the same proportion as far as possible.

    `labels` are the class ids 1..C of each image; unknown labels (None) count as none. Images of equal `groups` (N,),
    such as copies of a file, stay on one side. Raises BadData if either side would be empty.
    """
    tags = np.zeros((len(labels), num_classes), dtype=bool)
    for position, ids in enumerate(labels):
        tags[position, [] if ids is None else np.asarray(ids, dtype=int) - 1] = True
    is_held_out = select_held_out(tags, share, seed, groups)
    if is_held_out.all() or not is_held_out.any():
        num_left = int(is_held_out.sum())
        raise BadData(f"--holdout {share:g} holds out {num_left} of {len(labels)} images, which leaves one side empty",
                      "Use another share, or more images", where=where)
    return is_held_out


def describe_division(labels: Sequence[np.ndarray | None], is_held_out: np.ndarray,
                      classes: Sequence[str]) -> list[str]:
    """Return lines for the user: the number of images of each class on both sides, and the classes on one side only."""
    counts = np.zeros((2, len(classes)), dtype=int)
    for ids, side in zip(labels, is_held_out, strict=True):
        counts[int(side), [] if ids is None else np.asarray(ids, dtype=int)] += 1
    rows = [("class", "training", "held out"), *((classes[number], *map(str, counts[:, number]))
                                                 for number in range(1, len(classes)))]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"Holding out {int(is_held_out.sum())} of {len(labels)} images."]
    lines += [f"  {name:<{widths[0]}}  {training:>{widths[1]}}  {held_out:>{widths[2]}}"
              for name, training, held_out in rows]
    return [*lines, *_describe_one_sided(counts[0] + counts[1], counts[1], classes, "held out, so it can't be scored"),
            *_describe_one_sided(counts[0] + counts[1], counts[0], classes, "left to train with")]


def _describe_one_sided(total: np.ndarray, side: np.ndarray, classes: Sequence[str], consequence: str) -> list[str]:
    absent = [f"{classes[number]} ({total[number]} {'image' if total[number] == 1 else 'images'})"
              for number in range(1, len(classes)) if total[number] and not side[number]]
    if not absent:
        return []
    more = f" and {len(absent) - _MAX_LISTED_CLASSES} more" if len(absent) > _MAX_LISTED_CLASSES else ""
    return [f"No image of {', '.join(absent[:_MAX_LISTED_CLASSES])}{more} is {consequence}."]
