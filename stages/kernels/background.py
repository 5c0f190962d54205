"""Background scores for class maps, and the masks that result when the background competes with the classes.

There are three background rules in the field. `constant`: a fixed score (IRN and most later work). `power`:
(1 - max_c cam)^A (PSA, CLIP-ES). `two-thresholds`: background below LOW, a class above HIGH, and undecided in between
(IRN section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_SYNTAX = "constant:V, power:A or two-thresholds:LOW,HIGH"


@dataclass(frozen=True)
class Background:
    """A background rule and its values: `constant` (V,), `power` (A,), `two-thresholds` (LOW, HIGH)."""

    rule: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown rule and for values outside the rule's range."""
        num_values = {"constant": 1, "power": 1, "two-thresholds": 2}.get(self.rule)
        if num_values is None or len(self.values) != num_values:
            raise ValueError(f"{str(self)!r} is not {_SYNTAX}")
        if self.rule == "power" and not 0 < self.values[0] < math.inf:
            raise ValueError(f"{str(self)!r}: the power must be greater than 0")
        if self.rule != "power" and not all(0 <= value <= 1 for value in self.values):
            raise ValueError(f"{str(self)!r}: scores must be between 0 and 1")
        if self.rule == "two-thresholds" and self.values[0] > self.values[1]:
            raise ValueError(f"{str(self)!r}: LOW must not be greater than HIGH")

    def __str__(self) -> str:
        return f"{self.rule}:{','.join(str(float(value)).removesuffix('.0') for value in self.values)}"


def parse_background(text: str) -> Background:
    """Parse a rule and its numbers, such as `constant:0.3`. Raises ValueError."""
    rule, _, numbers = text.partition(":")
    try:
        values = tuple(float(number) for number in numbers.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not {_SYNTAX}") from None
    return Background(rule, values)


def add_background_scores(cam: np.ndarray, background: Background) -> np.ndarray:
    """Return the scores (K+1, H, W) of [background, classes] for CAMs (K, H, W) in [0, 1].

    Under `two-thresholds` the background scores HIGH, as in IRN's pass that selects confident class pixels. Without
    classes (K = 0) the background scores 1.
    """
    if not len(cam):
        return np.ones((1, *cam.shape[1:]), dtype=np.float32)
    background_scores = np.broadcast_to(_score_background(cam.max(axis=0), background), cam.shape[1:])
    return np.concatenate([background_scores[None], cam]).astype(np.float32)


def _score_background(strongest: np.ndarray, background: Background) -> np.ndarray:
    """Return the score of the background where the best class scores `strongest` (H, W): (H, W), or () if constant."""
    if background.rule == "power":
        return (1 - strongest) ** background.values[0]
    return np.array(background.values[-1], dtype=np.float32)  # constant, or two-thresholds, whose last value is HIGH


def find_best_class(scores: np.ndarray, class_ids: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Return (class ids (H, W) of `dtype`, scores (H, W)) of the best of scores (L, H, W); ties go to the first.

    Without classes (L = 0) both are 0.
    """
    if not len(scores):
        return np.zeros(scores.shape[1:], dtype), np.zeros(scores.shape[1:], np.float32)
    # A comparison per class: numpy's argmax over the first axis takes eight times as long.
    best_ids, best = np.full(scores.shape[1:], class_ids[0], dtype), scores[0].copy()
    for class_id, row in zip(class_ids[1:], scores[1:], strict=True):
        np.copyto(best_ids, class_id, where=row > best, casting="unsafe")
        np.maximum(best, row, out=best)
    return best_ids, best


def mark_background(best_ids: np.ndarray, best: np.ndarray, background: Background, ignore: int) -> None:
    """Set the class ids (H, W) to 0 in place where the best score (H, W) is not above that of the background.

    Pixels that two thresholds leave undecided become `ignore`.
    """
    is_background = best <= _score_background(best, background)
    best_ids[is_background] = 0
    if background.rule == "two-thresholds":
        best_ids[is_background & (best > background.values[0])] = ignore


def cams_to_mask(cam: np.ndarray, class_ids: np.ndarray, background: Background, ignore: int) -> np.ndarray:
    """Return the mask (H, W) int64 of CAMs (K, H, W) in [0, 1] for `class_ids` (K,); ties go to the background.

    Pixels that two thresholds leave undecided become `ignore`.
    """
    mask, best = find_best_class(cam, class_ids, np.int64)
    if len(cam):
        mark_background(mask, best, background, ignore)
    return mask


def scores_to_mask(scores: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) int64 of the best of scores (L, H, W) for `class_ids` (L,); ties go to the first."""
    return find_best_class(scores, class_ids, np.int64)[0]


def compute_confidence(cam: np.ndarray) -> np.ndarray:
    """Return the confidence (H, W) in [0.5, 1] of CAMs (K, H, W): max(1 - max_c X, max_c X), CLIP-ES eq. 8."""
    strongest = cam.max(axis=0) if len(cam) else np.zeros(cam.shape[1:], np.float32)
    return np.maximum(1 - strongest, strongest)
