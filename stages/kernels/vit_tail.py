"""The last block of a vision transformer with what follows it, and its gradient in closed form.

Grad-CAM on a frozen CLIP wants, per class, the gradient of the class's score with respect to the input of the
last self-attention, averaged over the patches: D numbers. Autograd gets them by one backward pass a class through
N x 3D and N x N matrices. Here everything that does not depend on the class is computed once, and the sums over
the patches are taken before the products with the weights wherever they commute: per class remain two products of
the MLP, one of the output projection and P^T do.

Shapes: B images, K classes, h heads, T = 1 + N tokens (class token first), R rows that are pooled (the N patches,
or the class token alone), D channels, E of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

POOLINGS = ("average", "class")


def quick_gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x sigmoid(1.702 x) and its derivative."""
    gate = torch.sigmoid(1.702 * x)
    value = x * gate
    return value, torch.addcmul(gate, value, 1 - gate, value=1.702)


def gelu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x Phi(x), Phi the normal distribution, and its derivative."""
    share = 0.5 * (1 + torch.erf(x * 0.5**0.5))
    return x * share, share + x * torch.exp(-0.5 * x * x) * (2 * torch.pi) ** -0.5


ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"gelu": gelu, "quick_gelu": quick_gelu}


class Affine(NamedTuple):
    """A layer norm's gain, shift and epsilon."""

    gain: Tensor
    shift: Tensor
    epsilon: float


class TailWeights(NamedTuple):
    """Weights of the last block, the final norm and the projection, as (out, in); layer scales multiplied in."""

    heads: int
    first_norm: Affine
    qkv: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]
    second_norm: Affine
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    activation: str
    final_norm: Affine
    norm_after_pool: bool
    projection: Tensor


class TailRun(NamedTuple):
    """What a run of the tail leaves behind for its gradient, and the embeddings (B, E) before normalisation."""

    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor
    context: Tensor
    second: tuple[Tensor, Tensor]
    slope: Tensor
    final: tuple[Tensor, Tensor]
    rows: slice
    embedding: Tensor


def run_tail(weights: TailWeights, tokens: Tensor, pooling: str = "average") -> TailRun:
    """Return the run of the last block on `tokens` (B, T, D), pooled over the patches or at the class token.

    `normed` (B, T, D) is the input of the self-attention, whose patches are Grad-CAM's feature map; `attention`
    (B, h, T, T) is the softmax.
    """
    rows = slice(1, None) if pooling == "average" else slice(0, 1)
    normed = F.layer_norm(tokens, tokens.shape[-1:], *weights.first_norm)
    query, key, content = _split(F.linear(normed, *weights.qkv), weights.heads)
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    attention = torch.softmax(scores, dim=-1)
    context = torch.matmul(attention[:, :, rows], content)
    hidden = tokens[:, rows] + F.linear(_joined(context), *weights.output)
    second = _standardised(hidden, weights.second_norm.epsilon)
    inner = F.linear(second[0] * weights.second_norm.gain + weights.second_norm.shift, *weights.up)
    value, slope = ACTIVATIONS[weights.activation](inner)
    hidden = hidden + F.linear(value, *weights.down)
    norm = weights.final_norm
    final = _standardised(hidden.mean(1, keepdim=True) if weights.norm_after_pool else hidden, norm.epsilon)
    pooled = final[0].mean(1) * norm.gain + norm.shift
    return TailRun(normed, query, key, content, attention, context, second, slope, final, rows,
                   pooled @ weights.projection)


def channel_weights(weights: TailWeights, run: TailRun, cotangents: Tensor) -> Tensor:
    """Return (B, K, D): the gradient with respect to `run.normed`, averaged over the patches.

    `cotangents` (B, K, E) are the gradients of K scores with respect to `run.embedding`. Equal to autograd's with
    the residual stream held, as in CLIP-ES, whose gradient reaches the map through the attention alone.
    """
    pooled = cotangents @ weights.projection.T * weights.final_norm.gain
    rows = run.second[0].shape[1]
    shared = run.final[0] @ weights.down[0]
    found = [_one_class(weights, run, pooled[:, place] / rows, shared) for place in range(pooled.shape[1])]
    return torch.stack(found, dim=1) / (run.normed.shape[1] - 1)


def _one_class(weights: TailWeights, run: TailRun, pooled: Tensor, shared: Tensor) -> Tensor:
    """Return the sum over the patches (B, D) for the cotangent `pooled` (B, D) of each row after the final norm."""
    through, scale = run.final  # the standardised rows and 1 / sigma; a single row where the norm is after pooling
    centred = (pooled - pooled.mean(-1, keepdim=True)).unsqueeze(1)
    along = through @ pooled.unsqueeze(-1) / through.shape[-1]
    upper = torch.addcmul(centred @ weights.down[0], shared, along, value=-1)
    inner = upper.mul(scale) * run.slope
    hidden = inner @ weights.up[0] * weights.second_norm.gain
    gradient = _through_norm(hidden, run.second)
    gradient += torch.addcmul(centred, through, along, value=-1) * scale
    return _through_attention(weights, run, _heads(gradient @ weights.output[0], weights.heads))


def _through_attention(weights: TailWeights, run: TailRun, context: Tensor) -> Tensor:
    """Return the sum over the patches (B, D) for the cotangent (B, h, R, d) of the heads' outputs."""
    attention, factor = run.attention[:, :, run.rows], run.query.shape[-1] ** -0.5
    delta = (context * run.context).sum(-1, keepdim=True)
    back = attention.transpose(-1, -2) @ torch.cat([context, delta], dim=-1)
    value = back[:, :, 1:, :-1].sum(-2)
    # The rows of the softmax's cotangent sum to 0, so over the patches it is minus the class token's column.
    column = attention[..., :1] * (context @ run.value[:, :, :1].transpose(-1, -2) - delta)
    key = -factor * (column * run.query[:, :, run.rows]).sum(-2)
    query = torch.zeros_like(key)
    if run.rows.start == 1:
        share = (run.value * back[..., :-1]).sum(-1, keepdim=True) - back[..., -1:]
        query = factor * (share * run.key).sum(-2)
    return torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=-1) @ weights.qkv[0]


def _through_norm(gradient: Tensor, standardised: tuple[Tensor, Tensor]) -> Tensor:
    normed, scale = standardised
    along = (gradient * normed).mean(-1, keepdim=True)
    return (gradient - gradient.mean(-1, keepdim=True)).addcmul_(normed, along, value=-1).mul_(scale)


def _standardised(rows: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(rows, dim=-1, keepdim=True, correction=0)
    scale = torch.rsqrt(variance + epsilon)
    return (rows - mean) * scale, scale


def _split(joined: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = joined.chunk(3, dim=-1)
    return _heads(query, heads), _heads(key, heads), _heads(value, heads)


def _heads(joined: Tensor, heads: int) -> Tensor:
    return joined.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(split: Tensor) -> Tensor:
    return split.transpose(1, 2).flatten(2)
