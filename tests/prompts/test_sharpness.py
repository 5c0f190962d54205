"""Sharpness compared with CLIP-ES eq. 5 computed by hand in float64."""

from __future__ import annotations

import math

import pytest
import torch

from stages.prompts.sharpness import Sharpness, compute_template_scores

# Variances (.04 + 0 + .04) / 3, 0 and .04; means .3, .8 and .4.
SCORES = ([0.5, 0.3, 0.1], [0.8], [0.6, 0.2])
EXPECTED = (0.08 / 3 + 0 + 0.04) / (0.3 + 0.8 + 0.4)


def compute_sharpness(*images: list[list[float]]) -> list[float]:
    """Return the sharpness of each template, given the scores (T, K) of each image."""
    sharpness = Sharpness(len(images[0]))
    for scores in images:
        sharpness.add(torch.tensor(scores, dtype=torch.float64))
    return sharpness.compute_values()


def test_equation_5_over_all_images():
    assert compute_sharpness(*([scores] for scores in SCORES)) == [pytest.approx(EXPECTED, rel=1e-14)]
    assert pytest.approx(2 / 45, rel=1e-14) == EXPECTED


def test_image_with_one_class_adds_only_to_the_denominator():
    without = compute_sharpness([SCORES[0]], [SCORES[2]])
    assert without == [pytest.approx((0.08 / 3 + 0.04) / 0.7, rel=1e-14)]
    assert compute_sharpness([SCORES[1]]) == [0.0], "only k = 1: variance 0, and not 0 / 0"


def test_templates_are_summed_separately():
    values = compute_sharpness([[0.5, 0.3], [0.4, 0.4]], [[0.1, 0.1], [0.9, 0.1]])
    assert values == pytest.approx([0.01 / 0.5, 0.16 / 0.9], rel=1e-14)


def test_no_scores_and_no_classes():
    assert compute_sharpness([[0.0, 0.0]]) == [math.inf], "a template without scores must not rank best"
    with pytest.raises(ValueError, match="without a class"):
        compute_sharpness([[]])


def test_scores_from_embeddings():
    # Unit vectors along the axes: the logits are the scale times the components of the normalised embedding.
    axes = torch.eye(4, dtype=torch.float64)
    classes, background = axes[None, :3], axes[None, 3:]
    embedding = torch.tensor([3.0, 4.0, 0.0, 0.0], dtype=torch.float64)
    scores = compute_template_scores(embedding, classes, background, torch.tensor([0, 1]), 2.0, "present")
    powers = [math.exp(2 * value) for value in (0.6, 0.8, 0.0)]
    expected = [power / sum(powers) for power in powers[:2]]
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-14)
    sharpness = Sharpness(1)
    sharpness.add(scores)
    mean = sum(expected) / 2
    variance = sum((score - mean) ** 2 for score in expected) / 2
    assert sharpness.compute_values() == [pytest.approx(variance / mean, rel=1e-12)]


def test_tiny_scores_do_not_underflow():
    axes = torch.eye(2, dtype=torch.float32)
    embedding = torch.tensor([-1.0, 0.0])
    scores = compute_template_scores(embedding, axes[None, :1], axes[None, 1:], torch.tensor([0]), 200.0, "present")
    assert 0 < float(scores) < 1e-80
