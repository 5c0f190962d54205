"""Shifts of the text vectors of classes, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stages.cams.text_shift import shift_text, weigh_centres

CLASSES = torch.eye(3, dtype=torch.float64)[:2]


def draw_centres(count: int) -> torch.Tensor:
    """Draw seeded centres (n, 3) in float64."""
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def test_none_leaves_the_classes():
    assert torch.equal(shift_text(CLASSES, "none"), CLASSES)


def test_mean_adds_the_mean_of_the_classes():
    # (1, 0, 0) + (1/2, 1/2, 0) = (3, 1, 0) / 2.
    expected = torch.tensor([[3.0, 1, 0], [1, 3, 0]], dtype=torch.float64) / math.sqrt(10)
    torch.testing.assert_close(shift_text(CLASSES, "mean"), expected)


def test_mean_of_a_file_adds_the_mean_of_its_centres():
    centres = torch.tensor([[0.0, 0, 2], [0, 0, 4]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0, 3], [0, 1, 3]], dtype=torch.float64) / math.sqrt(10)
    torch.testing.assert_close(shift_text(CLASSES, "mean", centres), expected)


def test_bank_weighs_centres_by_the_softmax_of_their_products():
    centres = torch.tensor([[1.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
    share = math.e / (math.e + 1)
    torch.testing.assert_close(weigh_centres(CLASSES, centres)[0], torch.tensor([share, 1 - share]).double(),
                               rtol=0, atol=1e-7)
    shifted = torch.tensor([1 + share, 0, 1 - share], dtype=torch.float64)
    torch.testing.assert_close(shift_text(CLASSES, "bank", centres)[0], shifted / shifted.norm(), rtol=0, atol=1e-7)


# The published code rounds (1 - 0.9) n down in floating point: 0 of 10, 1 of 11, 1 of 20, 11 of 112, 22 of 224.
@pytest.mark.parametrize(("count", "num_dropped"), [(1, 0), (5, 0), (10, 0), (11, 1), (20, 1), (112, 11), (224, 22)])
def test_the_least_similar_tenth_is_dropped(count, num_dropped):
    centres = draw_centres(count)
    weights = weigh_centres(CLASSES, centres)
    assert (weights == 0).sum(1).tolist() == [num_dropped] * 2
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    products = CLASSES @ centres.T
    for row in range(2):
        kept = weights[row] > 0
        if num_dropped:
            assert products[row][~kept].max() <= products[row][kept].min()
