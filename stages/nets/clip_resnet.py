"""The image tower of a CLIP with a ResNet, for comparison: its last feature map, and attention pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.nets.clip_vision import ImageFeatures

STRIDE = 32


class ResNetTower:
    """The frozen ModifiedResNet of a CLIP; the feature map is the output of its last layer, before the pooling."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual.eval().requires_grad_(False)
        self.cell, self.num_layers = STRIDE, 0

    def embed(self, images: Tensor, *, pooling: str = "class", num_attention_layers: int = 0) -> ImageFeatures:
        """Return the features of normalised `images` (B, 3, H, W), sides multiples of 32, without attention."""
        visual = self._visual
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        grid = (int(maps.shape[-2]), int(maps.shape[-1]))
        patches = maps.flatten(2).transpose(1, 2)
        return ImageFeatures(patches, self._pool_by_attention(patches, grid), None, grid, None)

    def compute_channel_weights(self, embedded: ImageFeatures, cotangents: Tensor) -> Tensor:
        """Compute the gradients of K scores with respect to the feature map, averaged over its cells: (B, K, D).

        `cotangents` (B, K, E) are the gradients of the scores with respect to the embedding.
        """
        with torch.inference_mode(False), torch.enable_grad():
            patches = embedded.patches.clone().requires_grad_()
            embedding = self._pool_by_attention(patches, embedded.grid)
            weights = [
                torch.autograd.grad(embedding, patches, cotangents[:, index].clone(), retain_graph=True)[0].mean(1)
                for index in range(cotangents.shape[1])]
        return torch.stack(weights, dim=1)

    def _pool_by_attention(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the embeddings (B, E) of patches (B, N, D)."""
        pool = self._visual.attnpool
        tokens = torch.cat([patches.mean(1, keepdim=True), patches], dim=1) + self._resize_positions(grid)
        query = F.linear(tokens[:, :1], pool.q_proj.weight, pool.q_proj.bias)
        key, value = pool.k_proj(tokens), pool.v_proj(tokens)
        heads = [part.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        context = F.scaled_dot_product_attention(*heads)
        return pool.c_proj(context.transpose(1, 2).flatten(2))[:, 0]

    def _resize_positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings (1 + N, D) of the pooling, resized to `grid`."""
        positions = self._visual.attnpool.positional_embedding
        side = round((len(positions) - 1) ** 0.5)
        if grid == (side, side):
            return positions
        resized = F.interpolate(positions[1:].T.reshape(1, -1, side, side), grid, mode="bilinear", align_corners=False)
        return torch.cat([positions[:1], resized.flatten(2)[0].T])
