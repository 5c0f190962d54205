"""How similar the patches of an image are to a self-supervised ViT, by the queries and keys of its last block.

CorrCLIP uses DINO's ViT-B/8. Position embeddings are resized as in DINO's own code, bicubically with 0.1 added to the
grid, which differs from timm's resampling (features off by 0.046 at 112 pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import Unavailable
from stages.nets.clip_vision import resize_positions
from stages.nets.proxy import ProxySource, load_frozen_backbone

_OFFSET = 0.1  # as in DINO's code
_REMEDY = "Choose a plain ViT with one class token, such as --proxy timm:vit_base_patch8_224 --proxy-weights dino"


def load_self_similarity(source: ProxySource, device: torch.device, mean: Sequence[float],
                         std: Sequence[float]) -> SelfSimilarity:
    """Return the network for images normalised with `mean` and `std`. Raises BadData, Unavailable."""
    backbone = load_frozen_backbone(source, device)
    return SelfSimilarity(source.name, getattr(backbone, "model", backbone), mean, std, (backbone.mean, backbone.std))


class SelfSimilarity:
    """A frozen ViT of timm that gives unit vectors for patches: queries plus keys of its last block, all heads."""

    def __init__(self, name: str, model: nn.Module, mean: Sequence[float], std: Sequence[float],
                 own_statistics: tuple[Sequence[float], Sequence[float]]) -> None:
        """Take images normalised by `mean` and `std`. Raises Unavailable for a network of another kind."""
        if not is_plain_timm_vit(model):
            raise Unavailable(f"{name} has no queries and keys of an ordinary vision transformer", _REMEDY)
        self._model: Any = model
        own_mean, own_std = own_statistics
        self._scale = torch.tensor([a / b for a, b in zip(std, own_std, strict=True)]).view(-1, 1, 1)
        shifts = [(a - b) / c for a, b, c in zip(mean, own_mean, own_std, strict=True)]
        self._shift = torch.tensor(shifts).view(-1, 1, 1)
        self.cell = int(self._model.patch_embed.patch_size[0])

    def convert(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) normalised as the network expects."""
        return images * self._scale.to(images.device) + self._shift.to(images.device)

    def compute_features(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, D, h, w) of images (B, 3, H, W) normalised for CLIP; sides are whole cells."""
        model = self._model
        stem = model.patch_embed.proj(self.convert(images))
        grid = (int(stem.shape[-2]), int(stem.shape[-1]))
        native = tuple(model.patch_embed.grid_size)
        positions = resize_positions(model.pos_embed[0], native, grid, "bicubic", _OFFSET)
        tokens = torch.cat([model.cls_token.expand(len(images), -1, -1), stem.flatten(2).transpose(1, 2)], dim=1)
        tokens = model.norm_pre(tokens + positions)
        for block in model.blocks[:-1]:
            tokens = block(tokens)
        last = model.blocks[-1]
        query, key, _ = last.attn.qkv(last.norm1(tokens)).chunk(3, dim=-1)
        return F.normalize((query + key)[:, 1:], dim=-1).transpose(1, 2).unflatten(-1, grid)


def is_plain_timm_vit(model: Any) -> bool:
    """Return whether a network of timm has one class token, learnt positions and joint queries, keys and values."""
    from timm.models.vision_transformer import VisionTransformer
    return (isinstance(model, VisionTransformer) and model.num_prefix_tokens == 1 and model.cls_token is not None
            and model.pos_embed is not None and hasattr(model.blocks[-1].attn, "qkv")
            and isinstance(getattr(model.blocks[-1].attn, "q_norm", nn.Identity()), nn.Identity)
            and model.pos_embed.shape[1] == 1 + model.patch_embed.num_patches)
