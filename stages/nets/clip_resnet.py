"""The image tower of a ResNet CLIP, for comparison: its last map, pooled by attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.nets.clip_vision import Embedded

STRIDE = 32


class ResNetTower:
    """The frozen ModifiedResNet of a CLIP: the feature map is its last layer's, before the attention pooling."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual.eval().requires_grad_(False)
        self.cell, self.layers = STRIDE, 0

    def embed(self, images: Tensor, *, pooling: str = "class", capture: int = 0) -> Embedded:
        """Return the features of normalised `images` (B, 3, H, W), sides multiples of 32; there is no attention."""
        visual = self._visual
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        grid = (int(maps.shape[-2]), int(maps.shape[-1]))
        patches = maps.flatten(2).transpose(1, 2)
        return Embedded(patches, self._pooled(patches, grid), None, grid, None)

    def channel_weights(self, embedded: Embedded, cotangents: Tensor) -> Tensor:
        """Return (B, K, D): the mean over the cells of the gradient of K scores, by their gradient (B, K, E)."""
        with torch.inference_mode(False), torch.enable_grad():
            patches = embedded.patches.clone().requires_grad_()
            embedding = self._pooled(patches, embedded.grid)
            each = [torch.autograd.grad(embedding, patches, cotangents[:, place].clone(), retain_graph=True)[0].mean(1)
                    for place in range(cotangents.shape[1])]
        return torch.stack(each, dim=1)

    def _pooled(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        pool = self._visual.attnpool
        rows = torch.cat([patches.mean(1, keepdim=True), patches], dim=1) + self._positions(grid)
        query = F.linear(rows[:, :1], pool.q_proj.weight, pool.q_proj.bias)
        key, value = pool.k_proj(rows), pool.v_proj(rows)
        split = [one.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for one in (query, key, value)]
        context = F.scaled_dot_product_attention(*split)
        return pool.c_proj(context.transpose(1, 2).flatten(2))[:, 0]

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        positions = self._visual.attnpool.positional_embedding
        side = round((len(positions) - 1) ** 0.5)
        if grid == (side, side):
            return positions
        resized = F.interpolate(positions[1:].T.reshape(1, -1, side, side), grid, mode="bilinear", align_corners=False)
        return torch.cat([positions[:1], resized.flatten(2)[0].T])
