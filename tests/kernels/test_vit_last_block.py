"""The closed-form gradient of the last block compared with autograd, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.vit_last_block import (
    ACTIVATIONS_WITH_DERIVATIVE,
    LastBlockWeights,
    LayerNormParameters,
    compute_channel_weights,
    run_last_block,
)


def draw_weights(width: int, heads: int, embed: int, activation: str, *, after: bool) -> LastBlockWeights:
    """Draw seeded weights in float64, with no trivial parts."""
    generator = torch.Generator().manual_seed(width + heads)

    def draw(*shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale + mean

    def norm() -> LayerNormParameters:
        return LayerNormParameters(draw(width, scale=0.3, mean=1), draw(width, scale=0.2), 1e-5)

    def linear(out: int, into: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw(out, into, scale=1.5 * into**-0.5), draw(out, scale=0.3)

    return LastBlockWeights(heads, norm(), linear(3 * width, width), linear(width, width), norm(),
                            linear(4 * width, width), linear(width, 4 * width), activation, norm(), after,
                            draw(width, embed, scale=width**-0.5))


def compute_with_autograd(weights: LastBlockWeights, tokens: torch.Tensor, cotangents: torch.Tensor,
                          pooling: str) -> torch.Tensor:
    """Compute the channel weights by K backward passes through an ordinary forward pass, residual stream held."""
    width = tokens.shape[-1]
    normed = F.layer_norm(tokens, (width,), *weights.first_norm).requires_grad_()
    query, key, value = F.linear(normed, *weights.qkv).chunk(3, -1)
    query, key, value = (part.unflatten(-1, (weights.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
    context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    hidden = tokens + F.linear(context, *weights.out_proj)
    inner = F.linear(F.layer_norm(hidden, (width,), *weights.second_norm), *weights.fc1)
    hidden = hidden + F.linear(ACTIVATIONS_WITH_DERIVATIVE[weights.activation](inner)[0], *weights.fc2)
    rows = hidden[:, 1:] if pooling == "average" else hidden[:, :1]
    if weights.norm_after_pool:
        pooled = F.layer_norm(rows.mean(1), (width,), *weights.final_norm)
    else:
        pooled = F.layer_norm(rows, (width,), *weights.final_norm).mean(1)
    embedding = pooled @ weights.projection
    gradients = [torch.autograd.grad((embedding * cotangents[:, index]).sum(), normed, retain_graph=True)[0]
                 for index in range(cotangents.shape[1])]
    return torch.stack(gradients, 1)[:, :, 1:].mean(2)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("pooling", ["average", "class"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("batch", "classes", "patches", "heads"), [(1, 1, 1, 2), (2, 3, 20, 4), (1, 5, 33, 1)])
def test_channel_weights_equal_autograd(activation, pooling, after, batch, classes, patches, heads):
    width, embed = 32, 12
    weights = draw_weights(width, heads, embed, activation, after=after)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(batch, 1 + patches, width, generator=generator, dtype=torch.float64)
    cotangents = torch.randn(batch, classes, embed, generator=generator, dtype=torch.float64)
    expected = compute_with_autograd(weights, tokens, cotangents, pooling)
    channel_weights = compute_channel_weights(weights, run_last_block(weights, tokens, pooling), cotangents)
    assert channel_weights.shape == (batch, classes, width)
    assert (channel_weights - expected).abs().max() <= 1e-9 * max(1.0, float(expected.abs().max()))


def test_activation_derivatives():
    points = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    for name, activation in (("gelu", F.gelu), ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x))):
        value, derivative = ACTIVATIONS_WITH_DERIVATIVE[name](points.detach())
        torch.testing.assert_close(value, activation(points.detach()), rtol=0, atol=1e-12)
        (expected,) = torch.autograd.grad(activation(points).sum(), points)
        torch.testing.assert_close(derivative, expected, rtol=0, atol=1e-12)
