"""MCTformer: a vision transformer whose class tokens are the classifier and attend to where their class is.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022): V1 has the class
tokens alone, V2 a patch classifier (CAM) beside them. "MCTformer+" (TPAMI 2024) pools that one's maps by rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.errors import BadData
from stages.kernels.class_attention import class_to_patch, fuse, patch_affinity, rank_pool, refine_maps
from stages.nets.class_tokens import NORMS, ClassTokenBackbone
from stages.nets.precision import at_least_fp32

VERSIONS = ("v1", "v2", "plus")
MCTFORMERS = {f"mctformer-{version}": version for version in VERSIONS}
# What the description of a net says of its final norm; those that do not say it were trained with one.
FINAL_NORM = {"final_norm": False}


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

    A class's logit is the mean over the channels of its token, as the last block returns it: there is no final norm,
    and there are no weights of a classifier. V2 and plus also have a 3x3 convolution on the patch tokens, whose maps
    are pooled to logits: their mean, or by rank.
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
        # The released code of plus scales positions by exactly h / h0.
        backbone.released_offset = 0.0 if version == "plus" else 0.1

    @property
    def architecture_options(self) -> dict[str, Any]:
        """What its description says besides backbone, head, stride and classes."""
        size = self.backbone.position_size
        return {**FINAL_NORM, "position_size": size} if size else dict(FINAL_NORM)

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

    def maps(self, images: Tensor, *, kind: str = "fused", layers: int = 3, refine: bool = False,
             detach_patch: bool = False) -> Tensor:
        """Return the class maps (B, C, h, w), 0 or more, with gradient: attention fused with the patch classifier.

        They are those of `cams mctformer` of one view before it stretches each map to [0, 1]; with `refine` after the
        affinity of the patches, summed over all layers. `kind` is one of `kernels.class_attention.KINDS`. With
        `detach_patch` the gradient passes the attention alone. Their mean is no logit, unlike `Classifier.maps`.
        """
        seen = self.attended(images, None if refine else layers)
        attention = class_to_patch(seen.attention[-layers:], self.n_outputs, seen.grid)
        patch = None if seen.patch is None else at_least_fp32(seen.patch)
        patch = patch.detach() if detach_patch and patch is not None else patch
        maps = fuse(self.version, kind, attention, patch, layers)
        return refine_maps(maps, patch_affinity(seen.attention, seen.grid)) if refine else maps

    def patch_maps(self, images: Tensor) -> Tensor:
        """Return the maps (B, C, h, w) of the patch classifier, logits before ReLU. Raises ValueError for V1."""
        _, patch = self._run(images)
        if patch is None:
            raise ValueError("MCTformer v1 has no patch classifier")
        return patch

    def attention(self, images: Tensor) -> Tensor:
        """Return the attention of every layer and head, (L, B, heads, T, T): C class tokens first."""
        with self.backbone.watched(heads=True) as found:
            self.backbone.run(images)
        return torch.stack(found)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return iter(()) if self.patch_head is None else self.patch_head.parameters()

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of any ViT as those of one with a token for each class.

        Raises BadData for a net of ours that was trained with a final norm, and as the backbone's `adapted`.
        """
        token = state.get("backbone.cls_token")
        normed = any(f"backbone.{norm}.weight" in state for norm in NORMS)
        if token is not None and token.shape[1] == self.n_outputs != 1 and normed:
            raise trained_with_norm()
        return self.backbone.adapted(state)

    @property
    def watched_layer(self) -> str:
        """The last layer whose patch tokens have a gradient of every class token's logit: where Grad-CAM looks."""
        return f"blocks.{self.backbone.depth - 1}.norm1"

    def _run(self, images: Tensor) -> tuple[Outputs, Tensor | None]:
        tokens, class_tokens = self.backbone.run(images)
        logits = tokens[:, :self.n_outputs].mean(-1)
        if self.patch_head is None:
            return Outputs(logits, None, class_tokens), None
        patch = self.patch_head(self.backbone.as_map(tokens, images))
        pooled = rank_pool(at_least_fp32(patch)) if self.version == "plus" else patch.mean((2, 3))
        return Outputs(logits, pooled, class_tokens), patch

    def _joined(self, found: Outputs) -> Tensor:
        if self.version != "plus" or found.patch_logits is None:
            return found.class_logits
        return (found.class_logits + found.patch_logits) / 2


def trained_with_norm(where: str = "") -> BadData:
    """Return the error for a net that was trained behind a final LayerNorm, by an older version of this program."""
    return BadData("this MCTformer was trained with a final LayerNorm, which the published network does not have: its "
                   "class tokens could not learn", "train it again with wsss train-cls", where=where)


def check_description(architecture: Mapping[str, Any], where: str = "") -> None:
    """Raise BadData when the `architecture` of a net's description is that of an MCTformer with a final norm."""
    if architecture.get("head") in MCTFORMERS and architecture.get("final_norm") is not False:
        raise trained_with_norm(where)
