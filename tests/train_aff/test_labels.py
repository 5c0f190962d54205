"""Pair labels and the affinity loss, compared with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.kernels.dense_crf import CRF_PRESETS, dense_crf, unary_from_scores
from stages.train_aff.labels import IGNORE_LABEL, build_pair_masks, compute_crf_scores, select_confident_labels
from stages.train_aff.psa import compute_affinity_loss


def test_confident_labels():
    low = np.array([[[.1, .9, .1, 0.]], [[.9, .1, .9, 0.]]])
    high = np.array([[[.2, .2, .8, 0.]], [[.8, .8, .2, 0.]]])
    np.testing.assert_array_equal(select_confident_labels(low, high), [[1, IGNORE_LABEL, 0, IGNORE_LABEL]])


def test_image_without_classes_is_background():
    row = np.ones((1, 2, 3))
    np.testing.assert_array_equal(select_confident_labels(row, row), np.zeros((2, 3)))


def test_pair_masks_are_disjoint():
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, IGNORE_LABEL], (2, 9, 12)).astype(np.uint8))
    background, same, different = build_pair_masks(label, 5)
    assert not (background & same).any() and not ((background | same) & different).any()
    assert background.any() and same.any() and different.any()


def test_scores_are_cell_means_of_posteriors():
    random = np.random.default_rng(0)
    image, maps = random.integers(0, 256, (20, 29, 3), dtype=np.uint8), random.random((2, 20, 29), dtype=np.float32)
    scores = compute_crf_scores(image, maps, 4.0, 8)
    background = (1 - maps.max(0)) ** 4
    posteriors = dense_crf(image, unary_from_scores(np.concatenate([background[None], maps])), CRF_PRESETS["psa"])
    assert scores.shape == (3, 3, 4)
    np.testing.assert_allclose(scores[:, 1, 2], posteriors[:, 8:16, 16:24].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(scores[:, 2, 3], posteriors[:, 16:, 24:].sum((1, 2)) / 64, rtol=1e-5)


def test_affinity_loss_weights_its_three_terms():
    affinity = torch.tensor([[.5, .25, .8, .1, .9]], dtype=torch.float64)
    masks = [torch.tensor([mask]) for mask in ([1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0])]
    expected = -(math.log(.5) + math.log(.25)) / 2 / 4 - math.log(.8) / 4 - math.log(.9) / 2
    assert compute_affinity_loss(affinity, *masks).item() == pytest.approx(expected, abs=1e-4)
    # 1e-5 enters each logarithm and each count.
    exact = (-(math.log(.50001) + math.log(.25001)) / 2.00001 / 4 - math.log(.80001) / 1.00001 / 4
             - math.log(.90001) / 1.00001 / 2)
    assert compute_affinity_loss(affinity, *masks).item() == pytest.approx(exact, rel=1e-12)


def test_affinity_loss_without_pairs_is_zero():
    affinity = torch.rand(1, 34, 0, 0, requires_grad=True)
    empty = torch.zeros(1, 34, 0, 0, dtype=torch.bool)
    loss = compute_affinity_loss(affinity, empty, empty, empty)
    loss.backward()
    assert loss.item() == 0
