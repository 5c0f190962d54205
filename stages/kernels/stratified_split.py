"""Division of images with several tags each into two parts that have every class in about the same proportion."""

from __future__ import annotations

import numpy as np


def select_held_out(tags: np.ndarray, share: float, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return which images are held out, bool (N,), by iterative stratification.

    `tags` is bool (N, C), `share` in 0..1 the part to be held out, and images of equal `groups` (N,) stay together,
    such as copies of a photograph. The class with the fewest images left is divided first: each of its images goes
    where more of that class are missing. Images without tags come last.

    Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011, algorithm 1;
    here groups take the place of examples, with the number of their images as the weight.
    """
    tags = np.asarray(tags, dtype=bool)
    _, group_of_image = np.unique(np.arange(len(tags)) if groups is None else groups, return_inverse=True)
    num_groups = int(group_of_image.max(initial=-1)) + 1
    counts = np.zeros((num_groups, tags.shape[1]), dtype=np.int64)
    np.add.at(counts, group_of_image, tags)
    sizes = np.bincount(group_of_image, minlength=num_groups)
    order = np.random.default_rng(seed).permutation(num_groups)
    is_held_out = np.empty(num_groups, dtype=bool)
    is_held_out[order] = _divide_groups(counts[order], sizes[order], share)
    return is_held_out[group_of_image]


def _divide_groups(counts: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray:
    """Return which groups are held out (G,), from the tags (G, C) and the images (G,) in each, in the order given."""
    shares = np.array([1 - share, share])
    wanted_of_class = shares[:, None] * counts.sum(axis=0)
    wanted = shares * sizes.sum()
    is_held_out, is_left = np.zeros(len(counts), dtype=bool), np.ones(len(counts), dtype=bool)
    num_left = counts.sum(axis=0)
    while is_left.any():
        classes = np.flatnonzero(num_left > 0)
        rarest = classes[num_left[classes].argmin()] if classes.size else None
        members = np.flatnonzero(is_left & (counts[:, rarest] > 0)) if rarest is not None else np.flatnonzero(is_left)
        for group in members:
            missing = wanted_of_class[:, rarest] if rarest is not None else wanted
            # Ties are decided by the images missing altogether.
            side = int((missing[1], wanted[1]) > (missing[0], wanted[0]))
            is_held_out[group] = bool(side)
            wanted_of_class[side] -= counts[group]
            wanted[side] -= sizes[group]
        is_left[members] = False
        num_left = counts[is_left].sum(axis=0)
    return is_held_out
