"""CLIP image towers that are run as a whole and observed through hooks: timm's vision transformers, EVA, CoCa.

Slower than `VisionTower`, which uses a closed form: here autograd computes the gradients, of all classes in one pass,
from the embedding back to the input of the last self-attention.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import Unavailable
from stages.nets.clip_vision import ImageFeatures, resize_positions
from stages.nets.library_classifier import OutputTap


class HookedTower:
    """A frozen vision transformer of open_clip or timm with blocks of any kind.

    A tower trained with attention pooling keeps it; others pool over the patches or at the class token, as requested.
    Raises Unavailable for a tower that is not a vision transformer.
    """

    def __init__(self, visual: Any) -> None:
        self._visual = visual.eval().requires_grad_(False)
        trunk = getattr(visual, "trunk", None)
        self._trunk, self._native_positions = trunk, None
        if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk, "dynamic_img_size"):
            _enable_any_image_size(trunk)
            blocks, self._num_prefix_tokens = trunk.blocks, int(trunk.num_prefix_tokens)
            self._norm, self.cell = blocks[-1].norm1, int(trunk.patch_embed.patch_size[0])
        elif trunk is None and hasattr(visual, "transformer"):
            blocks, self._num_prefix_tokens = visual.transformer.resblocks, 1
            self._norm, self.cell = blocks[-1].ln_1, int(visual.patch_size[0])
            self._native_positions = visual.positional_embedding.data
        else:
            raise Unavailable(f"the image tower of this CLIP, a {type(trunk or visual).__name__}, is not supported",
                              "Use --clip with a ViT such as ViT-B-16, or a ResNet such as RN50")
        self.num_layers = len(blocks)

    def embed(self, images: Tensor, *, pooling: str = "average", num_attention_layers: int = 0) -> ImageFeatures:
        """Return the features of normalised `images` (B, 3, H, W), whose sides are multiples of the patch size."""
        grid = (images.shape[-2] // self.cell, images.shape[-1] // self.cell)
        self._set_pooling(pooling)
        if self._native_positions is not None:
            self._visual.positional_embedding = nn.Parameter(
                resize_positions(self._native_positions, self._visual.grid_size, grid), requires_grad=False)
        rope = getattr(self._trunk, "rope", None)
        if getattr(rope, "feat_shape", None) is not None:
            with torch.inference_mode(False):
                rope.update_feat_shape(list(grid))
        num_tokens = grid[0] * grid[1] + self._num_prefix_tokens
        with torch.inference_mode(False), torch.enable_grad(), OutputTap(self._norm) as tap, \
                _record_attention(num_attention_layers, num_tokens) as attention_maps:
            embedding = self._visual(images.clone())
            embedding = embedding[0] if isinstance(embedding, tuple) else embedding
        if num_attention_layers and not attention_maps:
            raise Unavailable("the attention of this CLIP's image tower cannot be recorded", "Use --affinity none")
        patches = slice(self._num_prefix_tokens, None)
        attention = None
        if num_attention_layers:
            attention = torch.stack([weights[:, patches, patches] for weights in attention_maps]).mean(0)
        return ImageFeatures(tap.output.detach()[:, patches], embedding.detach(), attention, grid,
                             (embedding, tap.output))

    def compute_channel_weights(self, embedded: ImageFeatures, cotangents: Tensor) -> Tensor:
        """Compute the gradients of K scores with respect to the feature map, averaged over its patches: (B, K, D).

        `cotangents` (B, K, E) are the gradients of the scores with respect to the embedding.
        """
        embedding, tokens = embedded.backward_state
        with torch.inference_mode(False), torch.enable_grad():
            (gradients,) = torch.autograd.grad(embedding, tokens, cotangents.clone().transpose(0, 1),
                                               retain_graph=True, is_grads_batched=True)
        return gradients[:, :, self._num_prefix_tokens:].mean(2).transpose(0, 1)

    def _set_pooling(self, pooling: str) -> None:
        """Set "class" or average pooling, unless the tower pools by attention."""
        if self._trunk is not None and self._trunk.global_pool in ("avg", "token"):
            has_class_token = getattr(self._trunk, "cls_token", None) is not None
            self._trunk.global_pool = "token" if pooling == "class" and has_class_token else "avg"
        elif self._trunk is None and self._visual.attn_pool is None:
            self._visual.pool_type = "tok" if pooling == "class" else "avg"


def _enable_any_image_size(trunk: Any) -> None:
    """Make a timm vision transformer resize its position embeddings to each input."""
    from timm.layers import Format

    trunk.dynamic_img_size = True
    trunk.patch_embed.strict_img_size, trunk.patch_embed.flatten = False, False
    trunk.patch_embed.output_fmt = Format.NHWC


@contextlib.contextmanager
def _record_attention(num_attention_layers: int, num_tokens: int) -> Iterator[deque[Tensor]]:
    """Record, within the context, the last `num_attention_layers` attention maps over `num_tokens` tokens.

    Each is the mean over the heads. Fused attention does not return its weights and is replaced meanwhile.
    """
    attention_maps: deque[Tensor] = deque(maxlen=max(1, num_attention_layers))
    fused_attention = F.scaled_dot_product_attention
    has_fastpath = torch.backends.mha.get_fastpath_enabled()

    def compute_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                          dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
                          **options: Any) -> Tensor:
        if attn_mask is not None or is_causal or not query.shape[-2] == key.shape[-2] == num_tokens:
            return fused_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        weights = torch.softmax((query * factor) @ key.transpose(-1, -2), dim=-1)
        if num_attention_layers:
            attention_maps.append(weights.detach().mean(-3))
        return weights @ value

    torch.backends.mha.set_fastpath_enabled(False)
    F.scaled_dot_product_attention = compute_attention
    try:
        yield attention_maps
    finally:
        F.scaled_dot_product_attention = fused_attention
        torch.backends.mha.set_fastpath_enabled(has_fastpath)
