"""Detect a collapsed training: one whose classifier no longer ranks images with a class above those without.

A training can collapse although its loss stays finite: the network then predicts the same for every image, and its
CAMs are noise. The sign is the mean average precision (mAP) of an epoch, computed from the logits of the training
itself. It is compared with chance: the mAP of the same logits with the tags of the images permuted at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# The mAP of fewer images is not compared with chance: random logits gave 0.35 to 0.92 on 12 images of two classes, and
# 0.08 to 0.16 on 100 images of twenty classes (200 draws). A fall is, since it is measured in standard deviations: a
# training on 32 images fell from 1.0 at epoch 8 to 0.28 at epoch 10, 14 of them.
MIN_IMAGES = 100
_NUM_PERMUTATIONS = 20
_MIN_GAIN_OVER_CHANCE = 0.05  # share of the distance from chance to 1
_MIN_DROP = 5.0  # standard deviations of the mAP of chance below the best epoch
_MIN_SHARE_OF_BEST = 0.5
_MIN_EPOCHS = 3


@dataclass(frozen=True)
class CollapseMonitor:
    """Check each epoch of a training of `epochs` for a collapse; `hint` is the remedy to suggest."""

    epochs: int
    hint: str

    def compute_metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return {"map", "map_of_chance", "map_of_chance_sd"} of logits (N, C) and targets (N, C) in {0, 1}.

        Empty when every class is in all images or in none.
        """
        scores, present = logits.numpy(), targets.numpy() > 0
        is_scored = present.any(axis=0) & ~present.all(axis=0)
        if not is_scored.any():
            return {}
        generator = np.random.default_rng(0)
        permutations = [generator.permutation(len(present)) for _ in range(_NUM_PERMUTATIONS)]
        orders = np.stack([np.arange(len(present)), *permutations])
        precisions = np.mean([compute_average_precision(scores[:, column], present[:, column][orders])
                              for column in np.flatnonzero(is_scored)], axis=0)
        return {"map": float(precisions[0]), "map_of_chance": float(precisions[1:].mean()),
                "map_of_chance_sd": float(precisions[1:].std(ddof=1))}

    def describe_problem(self, history: list[dict[str, float]], num_images: int) -> tuple[str, str]:
        """Return (problem, remedy) after the last epoch of `history`, of `num_images`; ("", "") if all is well.

        There are two signs of a collapse:
        - The mAP of 100 images or more is near chance, after a third of the epochs and at least three (the first ones
          start from zeros and are no sign). Near: better by less than 0.05 of the distance to 1, and less than twice
          chance. On 471 photographs of VOC, three epochs give 0.53 to 0.62 where chance is 0.08; a training that fell
          to the loss of a constant gave 0.097.
        - The mAP has fallen to less than half of the best one, chance subtracted from both, in two consecutive epochs
          or in the last: a single epoch can be one step that was too large.
        """
        if not history:
            return "", ""
        last, epoch = history[-1], len(history)
        problem = f"the classification collapsed at epoch {epoch}: its mAP is {last['map']:.3f}, "
        is_judged = num_images >= MIN_IMAGES and epoch >= max(_MIN_EPOCHS, -(-self.epochs // 3))
        if is_judged and _is_near_chance(last):
            return f"{problem}where chance gives {last['map_of_chance']:.3f}", self.hint
        best = max(history, key=_compute_gain_over_chance)
        if _has_fallen(last, best) and (epoch == self.epochs or _has_fallen(history[-2], best)):
            return f"{problem}down from {best['map']:.3f} at epoch {history.index(best) + 1}", self.hint
        return "", ""


def build_collapse_hint(config: Any) -> str:
    """Return the remedy for a collapse: the options of this training that can cause or prevent it."""
    loss_weights = [f"--{name.replace('_', '-')}" for name in ("lambda_con", "lambda_ent", "subcategory_weight",
                                                               "lambda_fg", "lambda_bg") if getattr(config, name, 0)]
    changes = ["a smaller " + " or ".join([*loss_weights, "--lr"]), *([] if config.clip else ["--clip 1"])]
    return f"Use {' or '.join(changes)}, or --keep-going to train on regardless"


def compute_average_precision(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the average precision (P,) of scores (N,) for P sets of labels, boolean (P, N), each with a positive.

    It is the mean of the precision over the positive images, in descending order of the scores. Images of equal scores
    are ranked as one step, so the order of the images does not matter.
    """
    order = np.argsort(-scores, kind="stable")
    step_ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true_positives = np.cumsum(present[:, order], axis=1)[:, step_ends]
    precision_sums = (np.diff(true_positives, prepend=0, axis=1) * true_positives / (step_ends + 1)).sum(axis=1)
    return precision_sums / true_positives[:, -1]


def _compute_gain_over_chance(metrics: dict[str, float]) -> float:
    return metrics["map"] - metrics["map_of_chance"]


def _is_near_chance(metrics: dict[str, float]) -> bool:
    gain, chance = _compute_gain_over_chance(metrics), metrics["map_of_chance"]
    return gain < _MIN_GAIN_OVER_CHANCE * (1 - chance) and gain < chance


def _has_fallen(metrics: dict[str, float], best: dict[str, float]) -> bool:
    gain, best_gain = _compute_gain_over_chance(metrics), _compute_gain_over_chance(best)
    return gain < _MIN_SHARE_OF_BEST * best_gain and best_gain - gain > _MIN_DROP * metrics["map_of_chance_sd"]
