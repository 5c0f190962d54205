"""Label the tokens of a caption by the nouns that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.train_text.losses import IGNORE_INDEX


def label_noun_tokens(tokens: np.ndarray, chosen: Sequence[Sequence[int]],
                      nouns: Sequence[Sequence[int]]) -> np.ndarray:
    """Return labels (L,) of a caption's tokens (L,): 1..J at every occurrence of the J `chosen` nouns.

    The label is 0 on the caption's other `nouns`, and -1 on all other tokens: adjectives may go to any noun. A noun is
    a list of token ids, so "dog" is not found in "dogs", but is found in "dog bed". This is CoDe's released code; the
    thesis trains on the text segmenter's argmax.
    """
    labels = np.full(len(tokens), IGNORE_INDEX, dtype=np.int64)
    chosen_lists = [list(noun) for noun in chosen]
    others = [noun for noun in nouns if list(noun) not in chosen_lists]
    for label, labelled_nouns in ((0, others), *((number, [noun]) for number, noun in enumerate(chosen, 1))):
        for noun in labelled_nouns:
            for start in _find_token_run(tokens, noun):
                labels[start:start + len(noun)] = label
    return labels


def _find_token_run(tokens: np.ndarray, run: Sequence[int]) -> list[int]:
    """Return the positions in `tokens` at which the ids `run` start."""
    if not run or len(run) > len(tokens):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(run))
    return np.flatnonzero((windows == np.asarray(run)).all(1)).tolist()
