"""CLIP's image tower with one more class token per region, which sees this region alone (CorrCLIP)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.vit_last_block import ACTIVATIONS_WITH_DERIVATIVE, LastBlockWeights
from stages.nets.clip_vision import Block, VisionTower

# The blocks, counted from 1, whose outputs are averaged for the spatial features, by depth of the tower.
_MIDDLE_BLOCKS = {12: (6, 10), 24: (11, 22), 32: (3, 30)}


class RegionTokens(NamedTuple):
    """What the tower gives for one image with N patches and R regions.

    `last` and `middle` (1 + N, D) are the tokens that enter the last block, and the mean of the outputs of the blocks
    in the middle; `copies` (R, D) are the class tokens of the regions after the last block.
    """

    last: Tensor
    middle: Tensor
    copies: Tensor


def select_middle_blocks(depth: int) -> tuple[int, int]:
    """Return the first and last block, counted from 1, whose outputs are averaged: 6 to 10 of 12."""
    return _MIDDLE_BLOCKS.get(depth, (min(3, depth - 1), max(depth - 2, min(3, depth - 1))))


def run_with_region_tokens(tower: VisionTower, image: Tensor, is_visible: Tensor) -> RegionTokens:
    """Return the tokens of a normalised `image` (1, 3, H, W); `is_visible` (R, N) are the patches of each region.

    Each copy of the class token goes through all blocks, and attends to the class token and its patches; no token
    attends to a copy.
    """
    first, last = select_middle_blocks(tower.num_layers)
    visible = F.pad(is_visible, (1, 0), value=True)
    copies: Tensor | None = None
    total = torch.zeros(())
    tokens = image
    for number, (block, tokens, _) in enumerate(tower.step_through_blocks(image), 1):
        if copies is None:
            copies = tokens[0, :1].expand(len(visible), -1).clone()
        # The tokens that enter block n are the output of block n - 1.
        if first <= number - 1 <= last:
            total = total + tokens[0]
        copies = (_step_last_copies(tower.tail, tokens[0], copies, visible) if block is None
                  else _step_copies(block, tokens[0], copies, visible, tower.dtype))
    assert copies is not None
    return RegionTokens(tokens[0], total / (last - first + 1), copies)


def _step_copies(layer: Block, tokens: Tensor, copies: Tensor, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the copies (R, D) after a block; the tokens (1 + N, D) are those that enter it."""
    block, num_heads = layer.block, layer.block.attn.num_heads
    _, key, value = layer.qkv(block.ln_1(tokens).to(dtype)).chunk(3, dim=-1)
    query = layer.qkv(block.ln_1(copies).to(dtype)).chunk(3, dim=-1)[0]
    # In half precision the weights of the queries contain the scale of the attention.
    scale = 1.0 if dtype != tokens.dtype else (query.shape[-1] // num_heads) ** -0.5
    copies = copies + block.ls_1(layer.output(_attend(query, key, value, visible, num_heads, scale)))
    return copies + block.ls_2(layer.mlp(block.ln_2(copies).to(dtype)))


def _step_last_copies(weights: LastBlockWeights, tokens: Tensor, copies: Tensor, visible: Tensor) -> Tensor:
    """Return the copies (R, D) after the last block."""
    width = tokens.shape[-1:]
    _, key, value = F.linear(F.layer_norm(tokens, width, *weights.first_norm), *weights.qkv).chunk(3, dim=-1)
    query = F.linear(F.layer_norm(copies, width, *weights.first_norm), *weights.qkv).chunk(3, dim=-1)[0]
    scale = (query.shape[-1] // weights.num_heads) ** -0.5
    context = _attend(query, key, value, visible, weights.num_heads, scale)
    copies = copies + F.linear(context, *weights.out_proj)
    hidden = F.linear(F.layer_norm(copies, width, *weights.second_norm), *weights.fc1)
    return copies + F.linear(ACTIVATIONS_WITH_DERIVATIVE[weights.activation](hidden)[0], *weights.fc2)


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, num_heads: int, scale: float) -> Tensor:
    """Return the context (R, D) of queries (R, D) over keys and values (T, D), of which `visible` (R, T) are seen."""
    heads = [part.unflatten(-1, (num_heads, -1)).transpose(0, 1) for part in (query, key, value)]
    scores = (heads[0] @ heads[1].transpose(-1, -2) * scale).masked_fill(~visible, -torch.inf)
    return (scores.softmax(dim=-1) @ heads[2]).transpose(0, 1).flatten(1)
