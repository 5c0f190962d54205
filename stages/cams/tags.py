"""Which classes of an image get a map: `index`, `predicted:T` or `all`."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData, UsageError


def parse_tags(text: str) -> tuple[str, float]:
    """Return (rule, threshold) of `--tags index|predicted:T|all`. Raises UsageError."""
    rule, colon, value = text.partition(":")
    try:
        threshold = float(value) if rule == "predicted" else 0.0
    except ValueError:
        threshold = -1.0
    if rule not in ("index", "predicted", "all") or (colon and rule != "predicted") or not 0 <= threshold <= 1:
        raise UsageError(f"--tags {text} is not index, predicted:T (T from 0 to 1) or all")
    return rule, threshold


def choose(rule: str, threshold: float, labels: tuple[int, ...] | None, scores: np.ndarray) -> np.ndarray:
    """Return the class ids (K,) uint16 to map, given the index's `labels` and the net's `scores` (C,) in [0, 1].

    Raises BadData when the rule is `index` and the tags are unknown.
    """
    if rule == "index":
        if labels is None:
            raise BadData("has no tags in the index", "give --tags predicted:0.5 or all")
        return np.array(sorted(labels), dtype=np.uint16)
    chosen = scores >= threshold if rule == "predicted" else np.ones(len(scores), dtype=bool)
    return (np.flatnonzero(chosen) + 1).astype(np.uint16)
