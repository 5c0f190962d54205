"""Select images: evenly spread, or the worst by score, IoU with the ground truth, or IoU between two runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.errors import BadData, UsageError
from stages.kernels.mean_iou import confusion_matrix, count_pixels, mean_iou
from stages.show.photographs import RunReader, read_truth

T = TypeVar("T")
_MAX_COMPARED_SIDE = 1024  # pixels; images of VOC and COCO are smaller
_LABELS = {"score": "score", "iou": "IoU", "disagreement": "disagreement"}
# Why an image has no value, as the end of a sentence.
_MISSING = {"score": "without a score", "iou": "without ground truth, or without a mask to compare with it",
            "disagreement": "that are not in both runs"}
_REMEDIES = {"score": "Use --sort iou or --sort disagreement", "disagreement": "Compare runs of the same images",
             "iou": "Make the index again with --masks DIR, or use --sort score or --sort disagreement"}


def pick_evenly(values: Sequence[T], count: int) -> list[T]:
    """Return `count` evenly spread values, or all if there are fewer."""
    indices = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[index] for index in indices]


def choose_sort_key(readers: Sequence[RunReader], sources: Mapping[str, ImageSource], ids: Sequence[str]) -> str:
    """Return iou if there is ground truth and a mask to compare with it, else score."""
    can_compare = any(reader.can_read_masks for reader in readers)
    return "iou" if can_compare and any(sources[item_id].has_mask(item_id) for item_id in ids) else "score"


def select_compared_runs(key: str, readers: Sequence[RunReader]) -> list[RunReader]:
    """Return the runs that a sort key compares: the first that can be read as masks, or, for score, CAMs.

    Raises UsageError if there are not enough of them.
    """
    if key == "score":
        compared = [reader for reader in readers if reader.kind == "cams"][:1]
        if not compared:
            raise UsageError("--sort score needs CAMs, which have the scores of the classes",
                             "Add a run of CAMs, or use --sort iou, which needs ground truth")
        return compared
    num_runs = 1 if key == "iou" else 2
    compared = [reader for reader in readers if reader.can_read_masks][:num_runs]
    if len(compared) < num_runs and len(readers) >= num_runs:
        path = next(reader.path for reader in readers if not reader.can_read_masks)
        raise UsageError(f"--sort {key} compares masks, but {path} holds CAMs without a background",
                         "Add for example --background constant:0.3")
    if len(compared) < num_runs:
        raise UsageError(f"--sort {key} needs {'a run' if key == 'iou' else 'two runs'} of masks or CAMs",
                         f"Use for example `wsss show {'masks' if key == 'iou' else 'masks other-masks'} --sort {key}`")
    return compared


def compute_values(key: str, ids: Sequence[str], compared: Sequence[RunReader], sources: Mapping[str, ImageSource],
                   class_ids: tuple[int, ...], advance: Callable[[], None]) -> tuple[dict[str, float], str]:
    """Return the value of a sort key for each image that has one, and a sentence about those that have none, or "".

    `advance` is called after each image. Raises BadData if no image has a value.
    """
    values: dict[str, float] = {}
    for item_id in ids:
        is_comparable = not any(reader.find_problem(item_id) for reader in compared)
        if is_comparable and (key != "iou" or sources[item_id].has_mask(item_id)):
            value = _compute_value(key, item_id, compared, sources[item_id], class_ids)
            if value is not None:
                values[item_id] = value
        advance()
    if not values:
        raise BadData(f"--sort {key}: there are only images {_MISSING[key]}", _REMEDIES[key], where=compared[0].path)
    num_missing = len(ids) - len(values)
    return values, f"Left out {num_missing} of {len(ids)} images {_MISSING[key]}." if num_missing else ""


def _compute_value(key: str, item_id: str, compared: Sequence[RunReader], source: ImageSource,
                   class_ids: tuple[int, ...]) -> float | None:
    if key == "score":
        return compute_best_score(*compared[0].read_scores(item_id), class_ids)
    height, width = source.read_size(item_id)
    scale = min(1.0, _MAX_COMPARED_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    num_classes, has_background = len(compared[0].classes) - 1, bool(compared[0].classes[0])
    masks = [reader.read_mask(item_id, size) for reader in compared]
    if key == "disagreement":
        return compute_disagreement(masks[0], masks[1], num_classes)
    return compute_image_iou(read_truth(source, item_id, size), masks[0], num_classes, has_background=has_background)


def compute_best_score(class_ids: np.ndarray, scores: np.ndarray | None, selected: tuple[int, ...]) -> float | None:
    """Return the highest of the scores (K,) of classes (K,); of the `selected` classes only, unless that is empty.

    None if there is no such score.
    """
    if scores is None:
        return None
    chosen = scores[np.isin(class_ids, selected)] if selected else scores
    return float(chosen.max()) if len(chosen) else None


def compute_image_iou(truth: np.ndarray, prediction: np.ndarray, num_classes: int, *,
                      has_background: bool) -> float | None:
    """Return the mean IoU in [0, 1] of a mask (H, W) with the ground truth (H, W), over the classes that either has.

    Includes the background, if the data set has one. Pixels that the ground truth ignores do not count, those that the
    mask ignores are wrong. None if no pixel counts.
    """
    matrix = confusion_matrix(truth, prediction, num_classes + 1, ignore=get_ignore_index(num_classes))
    return _average_iou(matrix, first_class=0 if has_background else 1)


def compute_disagreement(first: np.ndarray, second: np.ndarray, num_classes: int) -> float | None:
    """Return 1 - the mean IoU of two masks (H, W), in [0, 1]; pixels that either ignores do not count.

    None if no pixel counts.
    """
    matrix = confusion_matrix(first, second, num_classes + 1, ignore=get_ignore_index(num_classes),
                              ignored_prediction="skip")
    agreement = _average_iou(matrix, first_class=0)
    return None if agreement is None else 1 - agreement


def _average_iou(matrix: np.ndarray, first_class: int) -> float | None:
    counts = count_pixels(matrix)
    mean = mean_iou(type(counts)(*(pixels[first_class:] for pixels in counts)))
    return None if np.isnan(mean) else mean


def sort_worst_first(values: Mapping[str, float], key: str) -> list[str]:
    """Return the ids from the worst to the best value of a sort key; equal values in the order of the ids."""
    sign = -1 if key == "disagreement" else 1
    return sorted(values, key=lambda item_id: (sign * values[item_id], item_id))


def describe_order(ids: Sequence[str], values: Mapping[str, float], key: str) -> str:
    """Return a sentence with the ids in their order, and their values."""
    order = "Highest" if key == "disagreement" else "Lowest"
    return f"{order} {_LABELS[key]} first: {', '.join(f'{item_id} {values[item_id]:.3f}' for item_id in ids)}."
