"""Whether a classifier in training still ranks images with a class above those without.

A training can fall apart without a loss that is not finite: the net then says the same of every image, and its maps
are noise. The mean average precision (mAP) of a pass, over the logits that the training itself computed, tells. It is
held against chance: the mAP of the same logits with the tags of the images exchanged at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# Fewer images than this are not judged: random logits gave a mAP of 0.35 to 0.92 on 12 pictures of two classes, and of
# 0.08 to 0.16 on 100 of twenty (200 draws).
FEWEST = 100
_EXCHANGES = 20
_NEAR = 0.05
_FALL = 5.0  # standard deviations below the best
_SHARE = 0.5
_PASSES = 3


@dataclass(frozen=True)
class CollapseWatch:
    """Judges the passes of a training of `epochs`; `advice` says what to try."""

    epochs: int
    advice: str

    def measure(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Return {"map", "map_of_chance", "map_of_chance_sd"} of logits (N, C) and targets (N, C) in {0, 1}.

        Empty when every class is in all images or in none.
        """
        scores, present = logits.numpy(), targets.numpy() > 0
        known = present.any(axis=0) & ~present.all(axis=0)
        if not known.any():
            return {}
        generator = np.random.default_rng(0)
        orders = np.stack([np.arange(len(present)), *(generator.permutation(len(present)) for _ in range(_EXCHANGES))])
        found = np.mean([average_precision(scores[:, one], present[:, one][orders])
                         for one in np.flatnonzero(known)], axis=0)
        return {"map": float(found[0]), "map_of_chance": float(found[1:].mean()),
                "map_of_chance_sd": float(found[1:].std(ddof=1))}

    def verdict(self, history: list[dict[str, float]], count: int) -> tuple[str, str]:
        """Return (what is wrong, what to do) after the last pass of `history`, of `count` images; ("", "") if nothing.

        Hardly better than chance, after a third of the passes and at least three: the first ones start from zeros and
        are no sign. Hardly: by less than 0.05 of what is left to 1, and less than twice chance. On 471 photographs of
        VOC three passes give 0.53 to 0.62 where chance is 0.08, and a training that fell to the loss of a constant
        gave 0.097. Or fallen to less than half of the best, both less chance, in two passes one after the other or in
        the last: a single one can be a step that went too far.
        """
        if not history or count < FEWEST:
            return "", ""
        now, epoch = history[-1], len(history)
        told = f"the classification has collapsed at epoch {epoch}: its mAP is {now['map']:.3f}, "
        if epoch >= max(_PASSES, -(-self.epochs // 3)) and _near_chance(now):
            return f"{told}chance gives {now['map_of_chance']:.3f}", self.advice
        best = max(history, key=_above)
        if _fallen(now, best) and (epoch == self.epochs or _fallen(history[-2], best)):
            return f"{told}it was {best['map']:.3f} at epoch {history.index(best) + 1}", self.advice
        return "", ""


def advice_for(config: Any) -> str:
    """Return what to try, by the settings that this training has."""
    weights = [f"--{name.replace('_', '-')}" for name in ("lambda_con", "lambda_ent", "subcategory_weight", "lambda_fg",
                                                          "lambda_bg") if getattr(config, name, 0)]
    smaller = " or ".join(["a smaller " + " or ".join([*weights, "--lr"]), *([] if config.clip else ["--clip 1"])])
    return f"try {smaller}; --keep-going trains on all the same"


def average_precision(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return the average precision (P,) of scores (N,) for P sets of labels, boolean (P, N), each with one at least.

    The mean of the precision over the images with the class, in falling order of the scores; equal scores are one
    step, so that the order in which images come does not matter.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(present[:, order], axis=1)[:, ends]
    return (np.diff(found, prepend=0, axis=1) * found / (ends + 1)).sum(axis=1) / found[:, -1]


def _above(one: dict[str, float]) -> float:
    return one["map"] - one["map_of_chance"]


def _near_chance(one: dict[str, float]) -> bool:
    return _above(one) < _NEAR * (1 - one["map_of_chance"]) and _above(one) < one["map_of_chance"]


def _fallen(one: dict[str, float], best: dict[str, float]) -> bool:
    return _above(one) < _SHARE * _above(best) and _above(best) - _above(one) > _FALL * one["map_of_chance_sd"]
