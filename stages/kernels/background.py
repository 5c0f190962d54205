"""The background as a competitor of the class maps, and the masks that come of it.

Three rules of the field. `constant`: a fixed score (IRN and most after it). `power`: (1 - max_c cam)^A (PSA,
CLIP-ES). `two-thresholds`: background below LOW, a class above HIGH, undecided between (IRN section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_SPELLINGS = "constant:V, power:A or two-thresholds:LOW,HIGH"


@dataclass(frozen=True)
class Background:
    """A rule and its values: `constant` (V,), `power` (A,), `two-thresholds` (LOW, HIGH)."""

    rule: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for another rule, and for values that it can't have."""
        count = {"constant": 1, "power": 1, "two-thresholds": 2}.get(self.rule)
        if count is None or len(self.values) != count:
            raise ValueError(f"{str(self)!r} is not {_SPELLINGS}")
        if self.rule == "power" and not 0 < self.values[0] < math.inf:
            raise ValueError(f"{str(self)!r}: the power is above 0")
        if self.rule != "power" and not all(0 <= value <= 1 for value in self.values):
            raise ValueError(f"{str(self)!r}: scores lie between 0 and 1")
        if self.rule == "two-thresholds" and self.values[0] > self.values[1]:
            raise ValueError(f"{str(self)!r}: LOW is above HIGH")

    def __str__(self) -> str:
        return f"{self.rule}:{','.join(str(float(value)).removesuffix('.0') for value in self.values)}"


def parse_background(text: str) -> Background:
    """Return the rule that `text` spells. Raises ValueError."""
    rule, _, numbers = text.partition(":")
    try:
        values = tuple(float(number) for number in numbers.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not {_SPELLINGS}") from None
    return Background(rule, values)


def with_background(cam: np.ndarray, background: Background) -> np.ndarray:
    """Return the scores (K+1, H, W) of [background, classes] for maps (K, H, W) in [0, 1].

    Under `two-thresholds` the row is HIGH, as in the pass that decides for a class. Without classes it is ones.
    """
    strongest = cam.max(axis=0) if len(cam) else np.zeros(cam.shape[1:], cam.dtype)
    if background.rule == "power":
        row = (1 - strongest) ** background.values[0]
    else:
        row = np.full(cam.shape[1:], background.values[-1], dtype=np.float32)
    if not len(cam):
        row = np.ones(cam.shape[1:], dtype=np.float32)
    return np.concatenate([row[None], cam]).astype(np.float32)


def mask_of_maps(cam: np.ndarray, class_ids: np.ndarray, background: Background, ignore: int) -> np.ndarray:
    """Return the mask (H, W) int64 of maps (K, H, W) in [0, 1] for `class_ids` (K,); ties go to the background.

    `ignore` marks what two thresholds leave undecided.
    """
    scores = with_background(cam, background)
    winner = np.concatenate([[0], class_ids]).astype(np.int64)[scores.argmax(axis=0)]
    if background.rule == "two-thresholds" and len(cam):
        winner[(winner == 0) & (cam.max(axis=0) > background.values[0])] = ignore
    return winner


def mask_of_rows(rows: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) int64 where rows (L, H, W) for `class_ids` (L,) compete directly; ties: the first."""
    return class_ids.astype(np.int64)[rows.argmax(axis=0)]


def confidence_of_maps(cam: np.ndarray) -> np.ndarray:
    """Return the confidence (H, W) in [0.5, 1] of maps (K, H, W): max(1 - max_c X, max_c X), CLIP-ES eq. 8."""
    strongest = cam.max(axis=0) if len(cam) else np.zeros(cam.shape[1:], np.float32)
    return np.maximum(1 - strongest, strongest)
