"""A plain MCTformer, written without timm and without wsss, as a reference for networks and losses.

Shapes: L layers, B images, C classes, (h, w) patches, T = C + h * w tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6


class PlainOutputs(NamedTuple):
    """The outputs of an MCTformer, in which V1 has no patch logits and no `patch` maps.

    Class logits and patch logits (B, C), maps of the patch classifier (B, C, h, w), attention averaged over the heads
    (L, B, T, T), class tokens (L, B, C, D), and the grid (h, w).
    """

    class_logits: Tensor
    patch_logits: Tensor | None
    patch: Tensor | None
    attention: Tensor
    class_tokens: Tensor
    grid: tuple[int, int]


def compute_outputs(state: Mapping[str, Tensor], version: str, images: Tensor, heads: int, *,
                    offset: float = 0.0) -> PlainOutputs:
    """Compute the outputs for images (B, 3, H, W) from the weights `state` under their released names.

    Positions of another grid are resized with the scale (h + `offset`) / h0.
    """
    num_classes, width = state["cls_token"].shape[1:]
    patches = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    grid = (int(patches.shape[2]), int(patches.shape[3]))
    class_positions, patch_positions = _resize_positions(state, num_classes, grid, offset)
    tokens = torch.cat([(state["cls_token"] + class_positions).expand(len(images), -1, -1),
                        patches.flatten(2).transpose(1, 2) + patch_positions], dim=1)
    attention_maps, class_tokens = [], []
    for layer in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))):
        block = {name.removeprefix(f"blocks.{layer}."): tensor for name, tensor in state.items()
                 if name.startswith(f"blocks.{layer}.")}
        tokens, attention = _run_block(block, tokens, heads)
        attention_maps.append(attention.mean(1))
        class_tokens.append(tokens[:, :num_classes])
    patch, patch_logits = None, None
    if version != "v1":
        maps = tokens[:, num_classes:].transpose(1, 2).reshape(len(images), width, *grid)
        patch = F.conv2d(maps, state["head.weight"], state["head.bias"], padding=1)
        patch_logits = _pool(patch, version)
    logits = tokens[:, :num_classes].sum(-1) / width
    return PlainOutputs(logits, patch_logits, patch, torch.stack(attention_maps), torch.stack(class_tokens), grid)


def fuse_maps(outputs: PlainOutputs, version: str, layers: int, *, detach_patch: bool = False) -> Tensor:
    """Return the maps (B, C, h, w): class attention of the last `layers` layers times the positive patch maps."""
    num_classes = outputs.class_logits.shape[1]
    attention = outputs.attention[-layers:, :, :num_classes, num_classes:]
    attention = attention.reshape(layers, -1, num_classes, *outputs.grid)
    if outputs.patch is None:
        return attention.sum(0)
    positive = (outputs.patch.detach() if detach_patch else outputs.patch).clamp(min=0)
    if version == "v2":
        return attention.sum(0) * positive
    product = attention.mean(0) * positive
    # The square root has no gradient at 0.
    return torch.where(product > 0, torch.where(product > 0, product, 1.0).sqrt(), 0.0)


def sum_patch_attention(outputs: PlainOutputs) -> Tensor:
    """Return the sum over all layers (B, N, N) of the attention between patches."""
    num_classes = outputs.class_logits.shape[1]
    return outputs.attention[:, :, num_classes:, num_classes:].sum(0)


def refine_maps(outputs: PlainOutputs, maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) multiplied by the patch affinity of their image."""
    return torch.einsum("bij,bcj->bci", sum_patch_attention(outputs), maps.flatten(2)).reshape(maps.shape)


def _resize_positions(state: Mapping[str, Tensor], num_classes: int, grid: tuple[int, int],
                      offset: float) -> tuple[Tensor, Tensor]:
    """Return the positions of the classes and of the patches, the latter for `grid`."""
    if "pos_embed_pat" in state:
        classes, patches = state["pos_embed_cls"], state["pos_embed_pat"]
    else:
        classes, patches = state["pos_embed"][:, :num_classes], state["pos_embed"][:, num_classes:]
    side = isqrt(patches.shape[1])
    if grid == (side, side):
        return classes, patches
    table = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = tuple((length + offset) / side for length in grid)
    resized = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    return classes, resized.flatten(2).transpose(1, 2)


def _run_block(block: Mapping[str, Tensor], tokens: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the tokens after a layer and its attention (B, heads, T, T)."""
    batch_size, num_tokens, width = tokens.shape
    qkv = _linear(block, "attn.qkv", _norm(block, "norm1", tokens))
    query, key, value = qkv.reshape(batch_size, num_tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    attention = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
    context = (attention @ value).transpose(1, 2).reshape(batch_size, num_tokens, width)
    tokens = tokens + _linear(block, "attn.proj", context)
    hidden = F.gelu(_linear(block, "mlp.fc1", _norm(block, "norm2", tokens)))
    return tokens + _linear(block, "mlp.fc2", hidden), attention


def _norm(block: Mapping[str, Tensor], name: str, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], block[f"{name}.weight"], block[f"{name}.bias"], EPSILON)


def _linear(block: Mapping[str, Tensor], name: str, tokens: Tensor) -> Tensor:
    return F.linear(tokens, block[f"{name}.weight"], block[f"{name}.bias"])


def _pool(patch: Tensor, version: str) -> Tensor:
    """Pool maps (B, C, h, w) to logits (B, C): by their mean in V2, by rank in plus."""
    if version == "v2":
        return patch.mean((2, 3))
    sorted_scores = patch.flatten(2).sort(-1, descending=True).values
    weights = torch.tensor([0.996**rank for rank in range(sorted_scores.shape[-1])], dtype=patch.dtype)
    return (sorted_scores * weights).sum(-1) / weights.sum()
