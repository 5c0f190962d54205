"""The nouns of a caption as a training sees them: which are drawn, and which tokens of the caption are theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.train_text.losses import IGNORE


def match_labels(tokens: np.ndarray, chosen: Sequence[Sequence[int]], every: Sequence[Sequence[int]]) -> np.ndarray:
    """Return labels (L,) of a caption's tokens (L,): 1..J where a chosen noun's run of tokens stands, at every place.

    0 on the caption's other nouns, -1 on all other tokens: adjectives may go to any noun. Nouns are lists of token ids,
    so "dog" is not in "dogs", and is in "dog bed". CoDe's released code; the thesis trains on its own argmax.
    """
    labels = np.full(len(tokens), IGNORE, dtype=np.int64)
    others = [run for run in every if list(run) not in [list(one) for one in chosen]]
    for number, runs in ((0, others), *((place, [run]) for place, run in enumerate(chosen, 1))):
        for run in runs:
            for start in _places(tokens, run):
                labels[start:start + len(run)] = number
    return labels


def _places(tokens: np.ndarray, run: Sequence[int]) -> list[int]:
    """Return where a run of ids begins among the tokens."""
    if not run or len(run) > len(tokens):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(run))
    return np.flatnonzero((windows == np.asarray(run)).all(1)).tolist()
