"""Calibrated attention against its definition, written out with loops."""

from __future__ import annotations

import math

import pytest
import torch

from stages.kernels.calibrated_attention import attend_calibrated, compute_calibrated_attention


def draw_heads(seed: int, batch: int = 2, heads: int = 3, tokens: int = 5, width: int = 4) -> torch.Tensor:
    """Draw seeded normals (B, h, T, d) in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, heads, tokens, width, generator=generator, dtype=torch.float64)


def sum_softmaxes(*parts: torch.Tensor) -> torch.Tensor:
    """Return the attention (B, T, T) by its definition, entry by entry."""
    batch, heads, tokens, width = parts[0].shape
    total = torch.zeros(batch, tokens, tokens, dtype=torch.float64)
    for image in range(batch):
        for head in range(heads):
            for part in parts:
                vectors = part[image, head]
                for row in range(tokens):
                    exponentials = [math.exp(float(vectors[row] @ vectors[column]) / math.sqrt(width))
                                    for column in range(tokens)]
                    total[image, row] += torch.tensor(exponentials, dtype=torch.float64) / sum(exponentials) / 3
    return total


def test_attention_is_the_mean_of_three_softmaxes_summed_over_the_heads():
    query, key, value = (draw_heads(seed) for seed in range(3))
    attention = compute_calibrated_attention(query, key, value)
    torch.testing.assert_close(attention, sum_softmaxes(query, key, value), rtol=0, atol=1e-12)
    torch.testing.assert_close(attention.sum(-1), torch.full((2, 5), 3.0, dtype=torch.float64), rtol=0, atol=1e-12)


def test_all_heads_are_averaged_by_the_same_attention():
    query, key, value = (draw_heads(seed) for seed in range(3))
    context = attend_calibrated(query, key, value)
    attention = sum_softmaxes(query, key, value)
    for head in range(3):
        torch.testing.assert_close(context[..., 4 * head:4 * head + 4], attention @ value[:, head], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    parts = [draw_heads(seed).to(dtype) for seed in range(3)]
    attention = compute_calibrated_attention(*parts)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(-1), torch.full((2, 5), 3.0), rtol=0, atol=1e-5)
    assert attend_calibrated(*parts).dtype == dtype
