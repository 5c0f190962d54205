"""Attention head by head equals attention of all heads at once."""

from __future__ import annotations

import pytest
import torch

from stages.kernels import attention
from stages.kernels.attention import attend, compute_attention_weights, has_many_scores


def draw_heads(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw queries, keys and values of 2 images, 3 heads and 11 tokens."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 11, 8, generator=generator, dtype=torch.float64).to(dtype)
    return query, key, value


@pytest.mark.parametrize("limit", [0, 1 << 26])
def test_equals_the_formula(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_SCORES", limit)
    query, key, value = draw_heads(torch.float64)
    scores = torch.einsum("bhid,bhjd->bhij", query, key).exp()
    weights = scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(compute_attention_weights(query, key), weights)
    context, weight_sums = attend(query, key, value)
    torch.testing.assert_close(context, torch.einsum("bhij,bhjd->bhid", weights, value))
    torch.testing.assert_close(weight_sums, weights.sum(1))


def test_half_precision_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = draw_heads(torch.bfloat16)
    expected = compute_attention_weights(query, key)
    monkeypatch.setattr(attention, "MAX_SCORES", 0)
    context, weight_sums = attend(query, key, value)
    assert context.dtype == torch.bfloat16 and weight_sums.dtype == torch.float32
    torch.testing.assert_close(weight_sums, expected.float().sum(1))


def test_many_scores_are_more_than_those_of_voc_images() -> None:
    assert not has_many_scores(16, 12, 32 * 24 // 4)
    assert not has_many_scores(4, 12, 1 + 32 * 24)
    assert has_many_scores(1, 12, 1 + 64 * 48)
