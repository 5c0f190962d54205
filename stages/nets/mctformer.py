"""MCTformer: a vision transformer whose class tokens are the classifier and attend to where their class is.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022): V1 has the class
tokens alone, V2 a patch classifier (CAM) beside them. "MCTformer+" (TPAMI 2024) pools that one's maps by rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.kernels.class_attention import class_to_patch, fuse, rank_pool
from stages.nets.class_tokens import ClassTokenBackbone

VERSIONS = ("v1", "v2", "plus")
MCTFORMERS = {f"mctformer-{version}": version for version in VERSIONS}


class Outputs(NamedTuple):
    """Logits of the class tokens and of the patches (B, C each; None in V1), and the class tokens (L, B, C, D)."""

    class_logits: Tensor
    patch_logits: Tensor | None
    class_tokens: Tensor


class Attended(NamedTuple):
    """Logits (B, C), maps of the patch classifier (B, C, h, w) (None in V1), attention (L, B, T, T), (h, w)."""

    logits: Tensor
    patch: Tensor | None
    attention: Tensor
    grid: tuple[int, int]


class MCTformer(nn.Module):
    """MCTformer V1, V2 or plus on a ViT with class tokens.

    A class's logit is the mean over the channels of its token, so the tokens have no weights of their own. V2 and plus
    have a 3x3 convolution on the patch tokens besides, whose maps are pooled to logits: their mean, or by rank.
    Start from trained weights: behind a final norm whose gain is 1 everywhere, as in a fresh ViT, that mean is the same
    for every token, and the class tokens begin to learn only as the gain moves.
    """

    task = "classification"
    head_keys = ("patch_head",)

    def __init__(self, backbone: ClassTokenBackbone, version: str) -> None:
        super().__init__()
        if version not in VERSIONS:
            raise ValueError(f"version {version!r} is not one of {', '.join(VERSIONS)}")
        self.backbone, self.version, self.head = backbone, version, f"mctformer-{version}"
        self.n_outputs = backbone.n_classes
        self.patch_head: nn.Conv2d | None = None
        if version != "v1":
            self.patch_head = nn.Conv2d(backbone.channels, backbone.n_classes, 3, padding=1)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W): the class tokens', in plus their mean with the patches'."""
        return self._joined(self.outputs(images))

    def outputs(self, images: Tensor) -> Outputs:
        """Return what the training looks at, of images (B, 3, H, W)."""
        found, _ = self._run(images)
        return found

    def attended(self, images: Tensor, layers: int | None = None) -> Attended:
        """Return logits and maps with the attention of the last `layers` layers (None: all), mean over the heads."""
        with self.backbone.watched(layers) as attention:
            found, patch = self._run(images)
        return Attended(self._joined(found), patch, torch.stack(attention), self.backbone.grid_of(images))

    def maps(self, images: Tensor, *, kind: str = "fused", layers: int = 3) -> Tensor:
        """Return the class maps (B, C, h, w), 0 or more, with gradient: attention fused with the patch classifier.

        They are what `cams mctformer` has of one view before the affinity and before it stretches each map to [0, 1],
        and the M of CSD (Yang et al., BMVC 2023, eq. 2), which takes the class maps of its base as they are.
        `kind` is one of `kernels.class_attention.KINDS`. Their mean is no logit, unlike `Classifier.maps`.
        """
        seen = self.attended(images, layers)
        attention = class_to_patch(seen.attention, self.n_outputs, seen.grid)
        return fuse(self.version, kind, attention, seen.patch, layers)

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of every layer and head, (L, B, heads, T, T) float32: C class tokens first."""
        with self.backbone.watched(heads=True) as found:
            self.backbone.run(images)
        return torch.stack(found)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return iter(()) if self.patch_head is None else self.patch_head.parameters()

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of any ViT as those of one with a token for each class."""
        return self.backbone.adapted(state)

    @property
    def watched_layer(self) -> str:
        """The layer whose patch tokens still reach every class token: where Grad-CAM looks."""
        return f"blocks.{self.backbone.depth - 1}.norm1"

    def _run(self, images: Tensor) -> tuple[Outputs, Tensor | None]:
        tokens, class_tokens = self.backbone.run(images)
        logits = tokens[:, :self.n_outputs].mean(-1)
        if self.patch_head is None:
            return Outputs(logits, None, class_tokens), None
        patch = self.patch_head(self.backbone.as_map(tokens, images))
        pooled = rank_pool(patch.float()) if self.version == "plus" else patch.mean((2, 3))
        return Outputs(logits, pooled, class_tokens), patch

    def _joined(self, found: Outputs) -> Tensor:
        if self.version != "plus" or found.patch_logits is None:
            return found.class_logits
        return (found.class_logits + found.patch_logits) / 2
