"""The last block of a CLIP's vision transformer with another attention, so that every patch keeps to itself.

CLIP was trained at its class token: in the last block patches attend to whatever serves that, and their own embeddings
lose their place. Methods that segment without training put another attention (an `Attend`) in its place and compare
each patch with words.

Shapes: B images, h heads, T = 1 + N tokens (class token first), N = rows x columns patches, d channels of a head,
D channels, E of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.vit_tail import ACTIVATIONS, Affine, TailWeights


class Heads(NamedTuple):
    """Query, key and value (B, h, T, d) of the last attention, and the grid (rows, columns) of the patches."""

    query: Tensor
    key: Tensor
    value: Tensor
    grid: tuple[int, int]

    def similarity(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the scaled products (B, h, N, T) of the patches among `rows` with all `columns` (B, h, T, d)."""
        return rows[:, :, 1:] * rows.shape[-1] ** -0.5 @ columns.transpose(-1, -2)


# From the heads to the context (B, h, M, d) of the patches, M = N, or the cells of a finer grid.
Attend = Callable[[Heads], Tensor]


def dense_embeddings(weights: TailWeights, tokens: Tensor, grid: tuple[int, int], attend: Attend, *,
                     whole_block: bool) -> Tensor:
    """Return the embeddings (B, M, E) of the patches, not normalised, of `tokens` (B, T, D) that enter the last block.

    `whole_block` keeps the block's residual path and its MLP; else the attention's output alone goes on to the final
    norm and the projection (ClearCLIP).
    """
    normed = F.layer_norm(tokens, tokens.shape[-1:], *weights.first_norm)
    split = [one.unflatten(-1, (weights.heads, -1)).transpose(1, 2)
             for one in F.linear(normed, *weights.qkv).chunk(3, dim=-1)]
    context = attend(Heads(split[0], split[1], split[2], grid))
    rows = F.linear(context.transpose(1, 2).flatten(2), *weights.output)
    if whole_block:
        rows = rows + tokens[:, 1:]
        inner = F.linear(_normed(rows, weights.second_norm), *weights.up)
        rows = rows + F.linear(ACTIVATIONS[weights.activation](inner)[0], *weights.down)
    return _normed(rows, weights.final_norm) @ weights.projection


def neighbourhood(grid: tuple[int, int], deviation: float) -> Tensor:
    """Return the float32 (N, N) of exp(-|p - q|^2 / (2 deviation^2)) between the cells p, q of `grid`, in cells."""
    along = []
    for length in grid:
        place = torch.arange(length, dtype=torch.float32)
        along.append(torch.exp(-((place[:, None] - place) ** 2) / (2 * deviation**2)))
    return torch.kron(along[0], along[1])


def _normed(rows: Tensor, norm: Affine) -> Tensor:
    return F.layer_norm(rows, rows.shape[-1:], *norm)
