"""Selection of the classes that get a CAM in an image: `--tags index`, `predicted:T` or `all`."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData, UsageError

NO_TAGS_REMEDY = "Use --tags predicted:0.5 to map the classes that the network predicts, or --tags all"


def parse_tags(text: str) -> tuple[str, float]:
    """Parse `--tags index|predicted:T|all` into (rule, threshold). Raises UsageError."""
    rule, colon, value = text.partition(":")
    try:
        threshold = float(value) if rule == "predicted" else 0.0
    except ValueError:
        threshold = -1.0
    if rule not in ("index", "predicted", "all") or (colon and rule != "predicted") or not 0 <= threshold <= 1:
        raise UsageError(f"--tags {text} is not index, predicted:T (T from 0 to 1) or all",
                         "Use for example --tags predicted:0.5")
    return rule, threshold


def select_class_ids(rule: str, threshold: float, labels: tuple[int, ...] | None, scores: np.ndarray) -> np.ndarray:
    """Return the class ids (K,) uint16 to map, given the index's `labels` and the network's `scores` (C,) in [0, 1].

    Raises BadData if the rule is `index` and the image has no tags.
    """
    if rule == "index":
        if labels is None:
            raise BadData("the index has no tags for this image", NO_TAGS_REMEDY)
        return np.array(sorted(labels), dtype=np.uint16)
    is_selected = scores >= threshold if rule == "predicted" else np.ones(len(scores), dtype=bool)
    return (np.flatnonzero(is_selected) + 1).astype(np.uint16)
