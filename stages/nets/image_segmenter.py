"""The image segmenter of TCL: a trained copy of CLIP's last block, and a gated decoder to a map of stride 4.

Cha et al., "Learning to Generate Text-grounded Mask for Open-world Semantic Segmentation" (TCL, CVPR 2023), section
3.2; CoDe uses it too. At the start all gates are closed, and the map is MaskCLIP's, enlarged by nearest neighbour.

Shapes: B images, N texts, D channels of the tower, E of the embedding, (h, w) patches, (4h, 4w) map.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.frozen_clip import FrozenClip, run_block

NUM_UPSAMPLINGS = 2
UPSAMPLING_FACTOR = 2**NUM_UPSAMPLINGS
_EPSILON = 1e-6
_INITIAL_SCALE, _INITIAL_SHIFT = 10.0, -2.5


class GatedConvolution(nn.Module):
    """x + tanh(g) Conv3x3(GELU(LayerNorm(x))), with a gate g that starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, D, h, w) for maps of that shape; the norm is over the channels."""
        normed = self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return maps + torch.tanh(self.gate) * self.conv(F.gelu(normed))


class ImageSegmenter(nn.Module):
    """The part trained on top of a frozen trunk: last block, decoder, norm, projection, scale and shift of the masks.

    `convolutions` is the number of gated convolutions per upsampling: two in TCL, one in CoDe's released code.
    """

    def __init__(self, clip: FrozenClip, convolutions: int) -> None:
        super().__init__()
        visual = clip.model.visual
        self.last_block = copy.deepcopy(visual.transformer.resblocks[-1]).requires_grad_(True)
        self.decoder = nn.ModuleList(nn.Sequential(*(GatedConvolution(clip.channels) for _ in range(convolutions)))
                                     for _ in range(NUM_UPSAMPLINGS))
        self.norm = copy.deepcopy(visual.ln_post).requires_grad_(True)
        self.projection = nn.Parameter(visual.proj.detach().clone())
        self.scale = nn.Parameter(torch.tensor(_INITIAL_SCALE))
        self.shift = nn.Parameter(torch.tensor(_INITIAL_SHIFT))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the dense embedding (B, E, 4h, 4w), not normalised, of the trunk's tokens (B, 1 + h w, D)."""
        maps = run_block(self.last_block, tokens, self_only=True)[:, 1:].transpose(1, 2).unflatten(-1, grid)
        for convolutions in self.decoder:
            maps = convolutions(F.interpolate(maps, scale_factor=2, mode="nearest"))
        return (self.norm(maps.permute(0, 2, 3, 1)) @ self.projection).permute(0, 3, 1, 2)

    def logits(self, dense: Tensor, texts: Tensor) -> Tensor:
        """Return the mask logits (B, N, h, w), scale * cos(pixel, text) + shift, for texts (N, E)."""
        return self.scale * compute_cosine_similarity(dense, texts) + self.shift


def compute_cosine_similarity(dense: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine (B, N, h, w) of each pixel of `dense` (B, E, h, w) with each of `texts` (N, E)."""
    return torch.einsum("behw,ne->bnhw", scale_to_unit_length(dense, 1), scale_to_unit_length(texts, 1))


def scale_to_unit_length(vectors: Tensor, dim: int) -> Tensor:
    """Scale the vectors along `dim` to length 1 as TCL does: those shorter than 1e-6 stay shorter than 1."""
    return F.normalize(vectors, dim=dim, eps=_EPSILON)
