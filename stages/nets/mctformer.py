"""MCTformer: a vision transformer with one class token per class, whose attention localises the class.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022): V1 has only the
class tokens, V2 adds a patch classifier (CAM). "MCTformer+" (TPAMI 2024) pools the maps of the patch classifier by
rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from stages.errors import BadData
from stages.kernels.class_attention import (
    average_class_attention,
    compute_patch_affinity,
    fuse_class_maps,
    rank_pool,
    refine_maps,
)
from stages.nets.class_token_backbone import FINAL_NORM_NAMES, ClassTokenBackbone
from stages.nets.precision import promote_to_fp32

MCTFORMER_VERSIONS = ("v1", "v2", "plus")
MCTFORMER_HEADS = {f"mctformer-{version}": version for version in MCTFORMER_VERSIONS}
# Entry of a net file's description; files without it were trained with a final norm, by older versions.
NO_FINAL_NORM = {"final_norm": False}


class MCTformerOutputs(NamedTuple):
    """Logits of the class tokens and of the patches (B, C each; None in V1), and the class tokens (L, B, C, D)."""

    class_logits: Tensor
    patch_logits: Tensor | None
    class_tokens: Tensor


class AttentionOutputs(NamedTuple):
    """Logits (B, C), maps of the patch classifier (B, C, h, w) (None in V1), attention (L, B, T, T), grid (h, w)."""

    logits: Tensor
    patch: Tensor | None
    attention: Tensor
    grid: tuple[int, int]


class MCTformer(nn.Module):
    """MCTformer V1, V2 or plus on a ViT with class tokens.

    A class's logit is the mean over the channels of its token, as the last block returns it: there is no final norm
    and no classifier layer. V2 and plus also have a 3x3 convolution on the patch tokens, whose maps are pooled to
    logits: by their mean in V2, by rank in plus.
    """

    task = "classification"
    head_keys = ("patch_head",)

    def __init__(self, backbone: ClassTokenBackbone, version: str) -> None:
        super().__init__()
        if version not in MCTFORMER_VERSIONS:
            raise ValueError(f"version {version!r} is not one of {', '.join(MCTFORMER_VERSIONS)}")
        self.backbone, self.version, self.head = backbone, version, f"mctformer-{version}"
        self.n_outputs = backbone.num_classes
        self.patch_head: nn.Conv2d | None = None
        if version != "v1":
            self.patch_head = nn.Conv2d(backbone.channels, backbone.num_classes, 3, padding=1)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride
        # The released code of plus scales positions by exactly h / h0.
        backbone.released_position_offset = 0.0 if version == "plus" else 0.1

    @property
    def architecture_options(self) -> dict[str, Any]:
        """Further entries of the net file's architecture, besides backbone, head, stride and classes."""
        size = self.backbone.position_size
        return {**NO_FINAL_NORM, "position_size": size} if size else dict(NO_FINAL_NORM)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W): the class tokens', in plus their mean with the patches'."""
        return self._combine_logits(self.forward_outputs(images))

    def forward_outputs(self, images: Tensor) -> MCTformerOutputs:
        """Return the outputs that the training losses read, of images (B, 3, H, W)."""
        outputs, _ = self._forward_heads(images)
        return outputs

    def forward_with_attention(self, images: Tensor, layers: int | None = None) -> AttentionOutputs:
        """Return logits and maps with the attention of the last `layers` layers (None: all), averaged over heads."""
        with self.backbone.record_attention(layers) as attention:
            outputs, patch_maps = self._forward_heads(images)
        grid = self.backbone.compute_patch_grid(images)
        return AttentionOutputs(self._combine_logits(outputs), patch_maps, attention.stack(), grid)

    def maps(self, images: Tensor, *, kind: str = "fused", layers: int = 3, refine: bool = False,
             detach_patch: bool = False) -> Tensor:
        """Return the class maps (B, C, h, w) >= 0, with gradient: attention fused with the patch classifier's maps.

        They equal those of `cams mctformer` for one view before it stretches each map to [0, 1]. `refine` multiplies
        them by the affinity between patches, summed over all layers. `kind` is one of
        `kernels.class_attention.MAP_KINDS`. With `detach_patch`, gradients flow through the attention only. Unlike
        those of `Classifier.maps`, their mean is not a logit.
        """
        outputs = self.forward_with_attention(images, None if refine else layers)
        attention = average_class_attention(outputs.attention[-layers:], self.n_outputs, outputs.grid)
        patch_maps = None if outputs.patch is None else promote_to_fp32(outputs.patch)
        patch_maps = patch_maps.detach() if detach_patch and patch_maps is not None else patch_maps
        maps = fuse_class_maps(self.version, kind, attention, patch_maps, layers)
        return refine_maps(maps, compute_patch_affinity(outputs.attention, outputs.grid)) if refine else maps

    def forward_patch_maps(self, images: Tensor) -> Tensor:
        """Return the maps (B, C, h, w) of the patch classifier, logits before ReLU. Raises ValueError for V1."""
        _, patch_maps = self._forward_heads(images)
        if patch_maps is None:
            raise ValueError("MCTformer v1 has no patch classifier")
        return patch_maps

    def forward_attention(self, images: Tensor) -> Tensor:
        """Return the attention of every layer and head, (L, B, heads, T, T), the C class tokens first."""
        with self.backbone.record_attention(heads=True) as attention:
            self.backbone.forward_tokens(images)
        return attention.stack()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return iter(()) if self.patch_head is None else self.patch_head.parameters()

    def adapt_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adapt the weights of any ViT to one class token per class.

        Raises BadData for an MCTformer of ours that was trained with a final norm, and as the backbone's method does.
        """
        token = state.get("backbone.cls_token")
        has_final_norm = any(f"backbone.{norm}.weight" in state for norm in FINAL_NORM_NAMES)
        if token is not None and token.shape[1] == self.n_outputs != 1 and has_final_norm:
            raise build_final_norm_error()
        return self.backbone.adapt_state_dict(state)

    @property
    def default_cam_layer(self) -> str:
        """Grad-CAM's default layer: the last one whose patch tokens have a gradient of every class token's logit."""
        return f"blocks.{self.backbone.depth - 1}.norm1"

    def _forward_heads(self, images: Tensor) -> tuple[MCTformerOutputs, Tensor | None]:
        """Return the outputs, and the maps of the patch classifier (None in V1)."""
        tokens, class_tokens = self.backbone.forward_tokens(images)
        logits = tokens[:, :self.n_outputs].mean(-1)
        if self.patch_head is None:
            return MCTformerOutputs(logits, None, class_tokens), None
        patch_maps = self.patch_head(self.backbone.tokens_to_map(tokens, images))
        pooled = rank_pool(promote_to_fp32(patch_maps)) if self.version == "plus" else patch_maps.mean((2, 3))
        return MCTformerOutputs(logits, pooled, class_tokens), patch_maps

    def _combine_logits(self, outputs: MCTformerOutputs) -> Tensor:
        if self.version != "plus" or outputs.patch_logits is None:
            return outputs.class_logits
        return (outputs.class_logits + outputs.patch_logits) / 2


def build_final_norm_error(where: str = "") -> BadData:
    """Return the error for a network that an older version of this program trained with a final LayerNorm."""
    return BadData("this MCTformer was trained with a final LayerNorm, which the published network does not have: its "
                   "class tokens could not learn", "Train it again with `wsss train-cls`", where=where)


def check_no_final_norm(architecture: Mapping[str, Any], where: str = "") -> None:
    """Raise BadData if the `architecture` of a net file's description is an MCTformer with a final norm."""
    if architecture.get("head") in MCTFORMER_HEADS and architecture.get("final_norm") is not False:
        raise build_final_norm_error(where)
