"""Sharpness against CLIP-ES eq. 5 worked out by hand, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from stages.prompts.sharpness import Sharpness, class_scores

# Variances (.04 + 0 + .04) / 3, 0 and .04; means .3, .8 and .4.
SCORES = ([0.5, 0.3, 0.1], [0.8], [0.6, 0.2])
BY_HAND = (0.08 / 3 + 0 + 0.04) / (0.3 + 0.8 + 0.4)


def sharpness_of(*images: list[list[float]]) -> list[float]:
    """Return the sharpness of each template; an image is the scores (T, K)."""
    total = Sharpness(len(images[0]))
    for scores in images:
        total.add(torch.tensor(scores, dtype=torch.float64))
    return total.values()


def test_it_is_equation_5_over_all_images():
    assert sharpness_of(*([scores] for scores in SCORES)) == [pytest.approx(BY_HAND, rel=1e-14)]
    assert pytest.approx(2 / 45, rel=1e-14) == BY_HAND


def test_an_image_with_one_class_adds_to_the_denominator_alone():
    without = sharpness_of([SCORES[0]], [SCORES[2]])
    assert without == [pytest.approx((0.08 / 3 + 0.04) / 0.7, rel=1e-14)]
    assert sharpness_of([SCORES[1]]) == [0.0], "k = 1 alone: no dispersion, and no 0 / 0"


def test_every_template_has_its_own_sum():
    found = sharpness_of([[0.5, 0.3], [0.4, 0.4]], [[0.1, 0.1], [0.9, 0.1]])
    assert found == pytest.approx([0.01 / 0.5, 0.16 / 0.9], rel=1e-14)


def test_edge_cases():
    assert sharpness_of([[0.0, 0.0]]) == [math.inf], "no score at all is not the best of all templates"
    with pytest.raises(ValueError, match="without a class"):
        sharpness_of([[]])


def test_from_embeddings_to_the_value():
    # Unit vectors along the axes: the logits are scale x the embedding's shares, worked out by hand.
    axes = torch.eye(4, dtype=torch.float64)
    classes, background = axes[None, :3], axes[None, 3:]
    embedding = torch.tensor([3.0, 4.0, 0.0, 0.0], dtype=torch.float64)
    scores = class_scores(embedding, classes, background, torch.tensor([0, 1]), 2.0, "present")
    powers = [math.exp(2 * value) for value in (0.6, 0.8, 0.0)]
    expected = [power / sum(powers) for power in powers[:2]]
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-14)
    total = Sharpness(1)
    total.add(scores)
    mean = sum(expected) / 2
    variance = sum((score - mean) ** 2 for score in expected) / 2
    assert total.values() == [pytest.approx(variance / mean, rel=1e-12)]


def test_faint_scores_are_not_rounded_to_zero():
    axes = torch.eye(2, dtype=torch.float32)
    embedding = torch.tensor([-1.0, 0.0])
    scores = class_scores(embedding, axes[None, :1], axes[None, 1:], torch.tensor([0]), 200.0, "present")
    assert 0 < float(scores) < 1e-80
