"""Iterative stratification: shares of every class, groups that stay together, repetition by seed."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.stratified_split import select_held_out


def _draw_tags(num_images: int, frequencies: list[float], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((num_images, len(frequencies))) < frequencies


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_held_out_in_proportion(share: float, seed: int) -> None:
    tags = _draw_tags(400, [0.02, 0.05, 0.1, 0.3, 0.6], seed)
    is_held_out = select_held_out(tags, share, seed)
    assert is_held_out.sum() == pytest.approx(share * 400, abs=3)
    counts, held_out = tags.sum(axis=0), tags[is_held_out].sum(axis=0)
    # Random division has a standard deviation of 0.4 sqrt(n): for the largest class 6 images. Here it is a few.
    assert np.abs(held_out - share * counts).max() <= 3


def test_rare_classes_are_on_both_sides() -> None:
    tags = np.zeros((100, 3), dtype=bool)
    tags[:, 0], tags[:5, 1], tags[10:20, 2] = True, True, True
    for seed in range(20):
        is_held_out = select_held_out(tags, 0.2, seed)
        assert tags[is_held_out].sum(axis=0).tolist() == [20, 1, 2]


def test_images_of_a_group_stay_together() -> None:
    tags = _draw_tags(60, [0.3, 0.3], 0)
    groups = np.arange(60) // 3
    is_held_out = select_held_out(tags, 0.25, 0, groups)
    assert len(set(zip(groups.tolist(), is_held_out.tolist(), strict=True))) == 20
    assert 12 <= is_held_out.sum() <= 18


def test_the_seed_decides() -> None:
    tags = _draw_tags(50, [0.5, 0.2], 1)
    first, again, other = (select_held_out(tags, 0.3, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_without_tags_only_the_number_counts() -> None:
    assert select_held_out(np.zeros((10, 2), bool), 0.3, 0).sum() == 3
    assert select_held_out(np.zeros((10, 0), bool), 0.3, 0).sum() == 3
    assert select_held_out(np.zeros((0, 2), bool), 0.3, 0).shape == (0,)


def test_the_order_of_the_images_does_not_matter_for_the_shares() -> None:
    tags = np.sort(_draw_tags(200, [0.5], 2), axis=0)
    assert tags[select_held_out(tags, 0.2, 0)].sum() == round(0.2 * tags.sum())
