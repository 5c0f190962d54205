"""MCTformer written out from its weights, without timm and without the package: what nets and losses are compared with.

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


class Seen(NamedTuple):
    """Class logits and patch logits (B, C), maps of the patch classifier (B, C, h, w), mean attention of the heads
    (L, B, T, T), class tokens (L, B, C, D), and the grid (h, w); V1 has neither patch logits nor their maps.
    """

    class_logits: Tensor
    patch_logits: Tensor | None
    patch: Tensor | None
    attention: Tensor
    class_tokens: Tensor
    grid: tuple[int, int]


def see(state: Mapping[str, Tensor], version: str, images: Tensor, heads: int, *, offset: float = 0.0) -> Seen:
    """Return what the network of `state` (released key names) computes of images (B, 3, H, W).

    Positions are resized with the scale (h + `offset`) / h0 where the grid is another than theirs.
    """
    n_classes, width = state["cls_token"].shape[1:]
    patches = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    grid = (int(patches.shape[2]), int(patches.shape[3]))
    classes, cells = _positions(state, n_classes, grid, offset)
    tokens = torch.cat([(state["cls_token"] + classes).expand(len(images), -1, -1),
                        patches.flatten(2).transpose(1, 2) + cells], dim=1)
    seen, class_tokens = [], []
    for layer in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))):
        block = {name.removeprefix(f"blocks.{layer}."): tensor for name, tensor in state.items()
                 if name.startswith(f"blocks.{layer}.")}
        tokens, attention = _block(block, tokens, heads)
        seen.append(attention.mean(1))
        class_tokens.append(tokens[:, :n_classes])
    patch, pooled = None, None
    if version != "v1":
        maps = tokens[:, n_classes:].transpose(1, 2).reshape(len(images), width, *grid)
        patch = F.conv2d(maps, state["head.weight"], state["head.bias"], padding=1)
        pooled = _pool(patch, version)
    logits = tokens[:, :n_classes].sum(-1) / width
    return Seen(logits, pooled, patch, torch.stack(seen), torch.stack(class_tokens), grid)


def fused_maps(seen: Seen, version: str, layers: int, *, detach_patch: bool = False) -> Tensor:
    """Return the maps (B, C, h, w): class attention of the last `layers` layers times the positive patch maps."""
    n_classes = seen.class_logits.shape[1]
    attention = seen.attention[-layers:, :, :n_classes, n_classes:].reshape(layers, -1, n_classes, *seen.grid)
    if seen.patch is None:
        return attention.sum(0)
    positive = (seen.patch.detach() if detach_patch else seen.patch).clamp(min=0)
    if version == "v2":
        return attention.sum(0) * positive
    product = attention.mean(0) * positive
    # The square root has no gradient at 0.
    return torch.where(product > 0, torch.where(product > 0, product, 1.0).sqrt(), 0.0)


def affinity_of(seen: Seen) -> Tensor:
    """Return the sum over all layers (B, N, N) of the attention between patches."""
    n_classes = seen.class_logits.shape[1]
    return seen.attention[:, :, n_classes:, n_classes:].sum(0)


def refined_maps(seen: Seen, maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) multiplied by the affinity of their own image."""
    return torch.einsum("bij,bcj->bci", affinity_of(seen), maps.flatten(2)).reshape(maps.shape)


def _positions(state: Mapping[str, Tensor], n_classes: int, grid: tuple[int, int],
               offset: float) -> tuple[Tensor, Tensor]:
    if "pos_embed_pat" in state:
        classes, cells = state["pos_embed_cls"], state["pos_embed_pat"]
    else:
        classes, cells = state["pos_embed"][:, :n_classes], state["pos_embed"][:, n_classes:]
    side = isqrt(cells.shape[1])
    if grid == (side, side):
        return classes, cells
    table = cells.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = tuple((length + offset) / side for length in grid)
    resized = F.interpolate(table, scale_factor=scale, mode="bicubic", align_corners=False)
    return classes, resized.flatten(2).transpose(1, 2)


def _block(block: Mapping[str, Tensor], tokens: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the tokens after a layer and its attention (B, heads, T, T)."""
    batch, count, width = tokens.shape
    mixed = _linear(block, "attn.qkv", _norm(block, "norm1", tokens)).reshape(batch, count, 3, heads, width // heads)
    query, key, value = mixed.permute(2, 0, 3, 1, 4)
    attention = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
    tokens = tokens + _linear(block, "attn.proj", (attention @ value).transpose(1, 2).reshape(batch, count, width))
    hidden = F.gelu(_linear(block, "mlp.fc1", _norm(block, "norm2", tokens)))
    return tokens + _linear(block, "mlp.fc2", hidden), attention


def _norm(block: Mapping[str, Tensor], name: str, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], block[f"{name}.weight"], block[f"{name}.bias"], EPSILON)


def _linear(block: Mapping[str, Tensor], name: str, tokens: Tensor) -> Tensor:
    return F.linear(tokens, block[f"{name}.weight"], block[f"{name}.bias"])


def _pool(patch: Tensor, version: str) -> Tensor:
    if version == "v2":
        return patch.mean((2, 3))
    ranked = patch.flatten(2).sort(-1, descending=True).values
    weights = torch.tensor([0.996**rank for rank in range(ranked.shape[-1])], dtype=patch.dtype)
    return (ranked * weights).sum(-1) / weights.sum()
