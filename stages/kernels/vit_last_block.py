"""The last block of a vision transformer with its final norm and projection, and its gradient in closed form.

Grad-CAM on a frozen CLIP needs, for each class, the gradient of the class's score with respect to the input of the
last self-attention, averaged over the patches: D numbers. Autograd computes them by one backward pass per class through
N x 3D and N x N matrices. Here everything that does not depend on the class is computed once, and the sums over
the patches are taken before the products with the weights wherever they commute: what remains per class are two
products of the MLP, one of the output projection and one with the transposed attention.

Shapes: B images, K classes, h heads, T = 1 + N tokens (class token first), R pooled tokens (the N patches, or the class
token alone), D channels, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.attention import compute_attention_weights

POOLINGS = ("average", "class")


def quick_gelu_with_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x sigmoid(1.702 x) and its derivative."""
    gate = torch.sigmoid(1.702 * x)
    value = x * gate
    return value, torch.addcmul(gate, value, 1 - gate, value=1.702)


def gelu_with_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x Phi(x), Phi the distribution function of the standard normal distribution, and its derivative."""
    phi = 0.5 * (1 + torch.erf(x * 0.5**0.5))
    return x * phi, phi + x * torch.exp(-0.5 * x * x) * (2 * torch.pi) ** -0.5


ACTIVATIONS_WITH_DERIVATIVE: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "gelu": gelu_with_derivative, "quick_gelu": quick_gelu_with_derivative}


class LayerNormParameters(NamedTuple):
    """Weight, bias and epsilon of a layer norm."""

    weight: Tensor
    bias: Tensor
    eps: float


class LastBlockWeights(NamedTuple):
    """Weights of the last block, the final norm and the projection, as (out, in); layer scales are multiplied in."""

    num_heads: int
    first_norm: LayerNormParameters
    qkv: tuple[Tensor, Tensor]
    out_proj: tuple[Tensor, Tensor]
    second_norm: LayerNormParameters
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]
    activation: str
    final_norm: LayerNormParameters
    norm_after_pool: bool
    projection: Tensor


class LastBlockRun(NamedTuple):
    """Intermediate values of a forward pass, saved for its gradient, and the embeddings (B, E), not normalised."""

    normed: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor
    context: Tensor
    second_standardised: tuple[Tensor, Tensor]
    activation_derivative: Tensor
    final_standardised: tuple[Tensor, Tensor]
    pooled_tokens: slice
    embedding: Tensor


def run_last_block(weights: LastBlockWeights, tokens: Tensor, pooling: str = "average") -> LastBlockRun:
    """Run the last block on `tokens` (B, T, D), pooled over the patches ("average") or at the class token ("class").

    `normed` (B, T, D) of the result is the input of the self-attention, whose patches are Grad-CAM's feature map;
    `attention` (B, h, T, T) is the softmax.
    """
    pooled_tokens = slice(1, None) if pooling == "average" else slice(0, 1)
    normed = F.layer_norm(tokens, tokens.shape[-1:], *weights.first_norm)
    query, key, value = _split_qkv(F.linear(normed, *weights.qkv), weights.num_heads)
    attention = compute_attention_weights(query * query.shape[-1] ** -0.5, key)
    context = torch.matmul(attention[:, :, pooled_tokens], value)
    hidden = tokens[:, pooled_tokens] + F.linear(_join_heads(context), *weights.out_proj)
    second_standardised = _standardise(hidden, weights.second_norm.eps)
    inner = F.linear(second_standardised[0] * weights.second_norm.weight + weights.second_norm.bias, *weights.fc1)
    activated, activation_derivative = ACTIVATIONS_WITH_DERIVATIVE[weights.activation](inner)
    hidden = hidden + F.linear(activated, *weights.fc2)
    norm = weights.final_norm
    final_standardised = _standardise(hidden.mean(1, keepdim=True) if weights.norm_after_pool else hidden, norm.eps)
    pooled = final_standardised[0].mean(1) * norm.weight + norm.bias
    return LastBlockRun(normed, query, key, value, attention, context, second_standardised, activation_derivative,
                        final_standardised, pooled_tokens, pooled @ weights.projection)


def compute_channel_weights(weights: LastBlockWeights, run: LastBlockRun, cotangents: Tensor) -> Tensor:
    """Return (B, K, D): the gradient with respect to `run.normed`, averaged over the patches.

    `cotangents` (B, K, E) are the gradients of K scores with respect to `run.embedding`. The result equals autograd's
    with the residual stream held constant, as in CLIP-ES, where the gradient reaches the map only through the
    attention.
    """
    pooled = cotangents @ weights.projection.T * weights.final_norm.weight
    num_pooled = run.second_standardised[0].shape[1]
    projected = run.final_standardised[0] @ weights.fc2[0]
    class_sums = [_sum_class_gradient(weights, run, pooled[:, index] / num_pooled, projected)
                  for index in range(pooled.shape[1])]
    return torch.stack(class_sums, dim=1) / (run.normed.shape[1] - 1)


def _sum_class_gradient(weights: LastBlockWeights, run: LastBlockRun, pooled: Tensor, projected: Tensor) -> Tensor:
    """Return the gradient of one class, summed over the patches (B, D).

    `pooled` (B, D) is the cotangent of each pooled token after the final norm; `projected` are the standardised tokens
    of the final norm times the weight of fc2, which all classes share.
    """
    # The standardised tokens and 1 / sigma; a single token if the norm comes after the pooling.
    standardised, scale = run.final_standardised
    centred = (pooled - pooled.mean(-1, keepdim=True)).unsqueeze(1)
    along = standardised @ pooled.unsqueeze(-1) / standardised.shape[-1]
    after_activation = torch.addcmul(centred @ weights.fc2[0], projected, along, value=-1)
    inner = after_activation.mul(scale) * run.activation_derivative
    hidden = inner @ weights.fc1[0] * weights.second_norm.weight
    gradient = _backward_through_norm(hidden, run.second_standardised)
    gradient += torch.addcmul(centred, standardised, along, value=-1) * scale
    context = _split_heads(gradient @ weights.out_proj[0], weights.num_heads)
    return _sum_attention_gradient(weights, run, context)


def _sum_attention_gradient(weights: LastBlockWeights, run: LastBlockRun, context: Tensor) -> Tensor:
    """Return the sum over the patches (B, D) for the cotangent `context` (B, h, R, d) of the heads' outputs."""
    attention, factor = run.attention[:, :, run.pooled_tokens], run.query.shape[-1] ** -0.5
    delta = (context * run.context).sum(-1, keepdim=True)
    transposed = attention.transpose(-1, -2) @ torch.cat([context, delta], dim=-1)
    value = transposed[:, :, 1:, :-1].sum(-2)
    # Each row of the softmax's cotangent sums to 0, so its sum over the patches is minus the class token's column.
    column = attention[..., :1] * (context @ run.value[:, :, :1].transpose(-1, -2) - delta)
    key = -factor * (column * run.query[:, :, run.pooled_tokens]).sum(-2)
    query = torch.zeros_like(key)
    if run.pooled_tokens.start == 1:
        column_sums = (run.value * transposed[..., :-1]).sum(-1, keepdim=True) - transposed[..., -1:]
        query = factor * (column_sums * run.key).sum(-2)
    return torch.cat([query.flatten(1), key.flatten(1), value.flatten(1)], dim=-1) @ weights.qkv[0]


def _backward_through_norm(gradient: Tensor, standardised: tuple[Tensor, Tensor]) -> Tensor:
    normed, scale = standardised
    along = (gradient * normed).mean(-1, keepdim=True)
    return (gradient - gradient.mean(-1, keepdim=True)).addcmul_(normed, along, value=-1).mul_(scale)


def _standardise(tokens: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return tokens (B, R, D) with mean 0 and variance 1 over the channels, and the scale 1 / sigma (B, R, 1)."""
    variance, mean = torch.var_mean(tokens, dim=-1, keepdim=True, correction=0)
    scale = torch.rsqrt(variance + eps)
    return (tokens - mean) * scale, scale


def _split_qkv(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.chunk(3, dim=-1)
    return _split_heads(query, num_heads), _split_heads(key, num_heads), _split_heads(value, num_heads)


def _split_heads(joined: Tensor, num_heads: int) -> Tensor:
    return joined.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _join_heads(split: Tensor) -> Tensor:
    return split.transpose(1, 2).flatten(2)
