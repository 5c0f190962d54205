"""The closed form of the last block's gradient against autograd, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.vit_tail import ACTIVATIONS, Affine, TailWeights, channel_weights, run_tail


def random_weights(width: int, heads: int, embed: int, activation: str, *, after: bool) -> TailWeights:
    """Return seeded weights in float64, all parts far from trivial."""
    generator = torch.Generator().manual_seed(width + heads)

    def draw(*shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale + mean

    def norm() -> Affine:
        return Affine(draw(width, scale=0.3, mean=1), draw(width, scale=0.2), 1e-5)

    def linear(out: int, into: int) -> tuple[torch.Tensor, torch.Tensor]:
        return draw(out, into, scale=1.5 * into**-0.5), draw(out, scale=0.3)

    return TailWeights(heads, norm(), linear(3 * width, width), linear(width, width), norm(),
                       linear(4 * width, width), linear(width, 4 * width), activation, norm(), after,
                       draw(width, embed, scale=width**-0.5))


def by_autograd(weights: TailWeights, tokens: torch.Tensor, cotangents: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return the same by K backward passes through an ordinary forward pass, residual held."""
    width = tokens.shape[-1]
    normed = F.layer_norm(tokens, (width,), *weights.first_norm).requires_grad_()
    query, key, value = F.linear(normed, *weights.qkv).chunk(3, -1)
    query, key, value = (one.unflatten(-1, (weights.heads, -1)).transpose(1, 2) for one in (query, key, value))
    context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    hidden = tokens + F.linear(context, *weights.output)
    inner = F.linear(F.layer_norm(hidden, (width,), *weights.second_norm), *weights.up)
    hidden = hidden + F.linear(ACTIVATIONS[weights.activation](inner)[0], *weights.down)
    rows = hidden[:, 1:] if pooling == "average" else hidden[:, :1]
    if weights.norm_after_pool:
        pooled = F.layer_norm(rows.mean(1), (width,), *weights.final_norm)
    else:
        pooled = F.layer_norm(rows, (width,), *weights.final_norm).mean(1)
    embedding = pooled @ weights.projection
    each = [torch.autograd.grad((embedding * cotangents[:, place]).sum(), normed, retain_graph=True)[0]
            for place in range(cotangents.shape[1])]
    return torch.stack(each, 1)[:, :, 1:].mean(2)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("pooling", ["average", "class"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("batch", "classes", "patches", "heads"), [(1, 1, 1, 2), (2, 3, 20, 4), (1, 5, 33, 1)])
def test_equal_to_autograd(activation, pooling, after, batch, classes, patches, heads):
    width, embed = 32, 12
    weights = random_weights(width, heads, embed, activation, after=after)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(batch, 1 + patches, width, generator=generator, dtype=torch.float64)
    cotangents = torch.randn(batch, classes, embed, generator=generator, dtype=torch.float64)
    expected = by_autograd(weights, tokens, cotangents, pooling)
    found = channel_weights(weights, run_tail(weights, tokens, pooling), cotangents)
    assert found.shape == (batch, classes, width)
    assert (found - expected).abs().max() <= 1e-9 * max(1.0, float(expected.abs().max()))


def test_slopes_are_derivatives():
    points = torch.linspace(-4, 4, 41, dtype=torch.float64, requires_grad=True)
    for name, plain in (("gelu", F.gelu), ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x))):
        value, slope = ACTIVATIONS[name](points.detach())
        torch.testing.assert_close(value, plain(points.detach()), rtol=0, atol=1e-12)
        (expected,) = torch.autograd.grad(plain(points).sum(), points)
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-12)
