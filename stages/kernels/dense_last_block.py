"""The last block of CLIP's vision transformer with a replaced attention, which keeps patch embeddings local.

CLIP is trained through its class token: in the last block the patches attend to whatever helps the class token, and
their embeddings no longer describe their own positions. Methods that segment without training replace this attention
(by an `AttentionFunction`) and compare each patch with words.

Shapes: B images, h heads, T = 1 + N tokens (class token first), N = rows x columns patches, d channels per head,
D channels, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.vit_last_block import ACTIVATIONS_WITH_DERIVATIVE, LastBlockWeights, LayerNormParameters


class AttentionHeads(NamedTuple):
    """The query, key and value (B, h, T, d) of the last attention, and the patch grid (rows, columns)."""

    query: Tensor
    key: Tensor
    value: Tensor
    grid: tuple[int, int]

    def compute_similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the scaled products (B, h, N, T) of the patches of `first` and the tokens of `second` (B, h, T, d)."""
        return first[:, :, 1:] * first.shape[-1] ** -0.5 @ second.transpose(-1, -2)


# Computes the context (B, h, M, d) of the patches from the heads; M is N, or the number of cells of a finer grid.
AttentionFunction = Callable[[AttentionHeads], Tensor]


def compute_dense_embeddings(weights: LastBlockWeights, tokens: Tensor, grid: tuple[int, int],
                             attend: AttentionFunction, *, whole_block: bool) -> Tensor:
    """Return the patch embeddings (B, M, E), not normalised, of `tokens` (B, T, D), the input of the last block.

    `whole_block` keeps the block's residual path and its MLP; otherwise only the attention's output goes on to the
    final norm and the projection (ClearCLIP).
    """
    normed = F.layer_norm(tokens, tokens.shape[-1:], *weights.first_norm)
    query, key, value = (part.unflatten(-1, (weights.num_heads, -1)).transpose(1, 2)
                         for part in F.linear(normed, *weights.qkv).chunk(3, dim=-1))
    context = attend(AttentionHeads(query, key, value, grid))
    patches = F.linear(context.transpose(1, 2).flatten(2), *weights.out_proj)
    if whole_block:
        patches = patches + tokens[:, 1:]
        hidden = F.linear(_apply_layer_norm(patches, weights.second_norm), *weights.fc1)
        patches = patches + F.linear(ACTIVATIONS_WITH_DERIVATIVE[weights.activation](hidden)[0], *weights.fc2)
    return _apply_layer_norm(patches, weights.final_norm) @ weights.projection


def compute_gaussian_bias(grid: tuple[int, int], deviation: float) -> Tensor:
    """Return exp(-|p - q|^2 / (2 deviation^2)), float32 (N, N), for the cells p, q of `grid`; distances in cells."""
    axis_biases = []
    for length in grid:
        position = torch.arange(length, dtype=torch.float32)
        axis_biases.append(torch.exp(-((position[:, None] - position) ** 2) / (2 * deviation**2)))
    return torch.kron(axis_biases[0], axis_biases[1])


def _apply_layer_norm(tokens: Tensor, norm: LayerNormParameters) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], *norm)
