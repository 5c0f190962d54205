"""The losses of a segmentation network, compared with loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.train_seg.losses import (
    LOSSES,
    balanced_cross_entropy,
    cross_entropy,
    ignore_low_confidence,
    resize_logits,
    resize_mask,
)

IGNORE = 255


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(4))
    mask[0, :2] = IGNORE
    return mask


def compute_losses_by_class(logits: torch.Tensor, mask: torch.Tensor) -> dict[int, list[float]]:
    """Return -log p of the true class of every pixel not ignored, by class, in float64."""
    losses_by_class: dict[int, list[float]] = {}
    for image, truth in zip(logits.double().tolist(), mask.tolist(), strict=True):
        for y, row in enumerate(truth):
            for x, label in enumerate(row):
                if label != IGNORE:
                    scores = [channel[y][x] for channel in image]
                    total = sum(math.exp(score) for score in scores)
                    losses_by_class.setdefault(label, []).append(-math.log(math.exp(scores[label]) / total))
    return losses_by_class


def test_cross_entropy_is_the_mean_over_pixels_not_ignored(logits, mask):
    losses = [value for values in compute_losses_by_class(logits, mask).values() for value in values]
    assert cross_entropy(logits, mask, ignore_index=IGNORE).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_balanced_loss_weights_background_and_classes_equally(logits, mask):
    by_class = compute_losses_by_class(logits, mask)
    background = by_class.pop(0)
    classes = [value for values in by_class.values() for value in values]
    expected = (sum(background) / len(background) + sum(classes) / len(classes)) / 2
    assert balanced_cross_entropy(logits, mask, ignore_index=IGNORE).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_loss_with_one_kind_of_pixel_has_its_half(logits, mask):
    for one_kind in (mask.clamp(min=1), torch.where(mask == IGNORE, mask, 0)):
        losses = [value for values in compute_losses_by_class(logits, one_kind).values() for value in values]
        expected = sum(losses) / len(losses) / 2
        assert balanced_cross_entropy(logits, one_kind, ignore_index=IGNORE).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", list(LOSSES))
def test_all_ignored_gives_zero_loss_with_a_gradient(logits, name):
    logits.requires_grad_()
    loss = LOSSES[name](logits, torch.full((2, 5, 6), IGNORE), ignore_index=IGNORE)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_confidence_loss_ignores_pixels_of_low_confidence(logits, mask):
    """CLIP-ES: eq. 8 gives the confidence max(X, 1 - X), eq. 9 takes the loss where it is mu or more."""
    random = np.random.default_rng(8)
    strongest = random.random((2, 5, 6))
    confidence = np.round(np.maximum(strongest, 1 - strongest) * 255).astype(np.uint8)
    confident_mask = ignore_low_confidence(mask.numpy(), confidence, 0.8, IGNORE)
    total = count = 0.0
    log_p = logits.double().log_softmax(1)
    for b, y, x in np.ndindex(2, 5, 6):
        if mask[b, y, x] != IGNORE and confidence[b, y, x] / 255 >= 0.8:
            total -= log_p[b, mask[b, y, x], y, x].item()
            count += 1
    assert 0 < count < (mask != IGNORE).sum()
    loss = LOSSES["confidence"](logits, torch.from_numpy(confident_mask), ignore_index=IGNORE)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_confidence_is_compared_as_uint8():
    mask, confidence = np.full((1, 4), 2, np.uint8), np.array([[0, 242, 243, 255]], np.uint8)
    np.testing.assert_array_equal(ignore_low_confidence(mask, confidence, 0.95, IGNORE), [[IGNORE, IGNORE, 2, 2]])
    np.testing.assert_array_equal(ignore_low_confidence(mask, confidence, 1.0, IGNORE), [[IGNORE, IGNORE, IGNORE, 2]])
    np.testing.assert_array_equal(ignore_low_confidence(mask, confidence, 0.0, IGNORE), mask)
    assert (mask == 2).all(), "the input mask is not changed"


def test_resize_logits_and_masks(logits, mask):
    assert resize_logits(logits, torch.zeros(2, 20, 24)).shape == (2, 4, 20, 24)
    small = resize_mask(mask.repeat_interleave(3, 1).repeat_interleave(3, 2), (5, 6))
    assert torch.equal(small, mask)
    assert resize_mask(torch.full((1, 8, 8), 65535), (2, 2)).unique().tolist() == [65535]
