"""Image towers that can't be taken apart, watched while they run: timm's vision transformers, EVA, CoCa.

Slower than `VisionTower`, which has the closed form: gradients are autograd's, from the embedding to the input of the
last self-attention and no further, all classes in one sweep.
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
from stages.nets.clip_vision import Embedded, resized_positions
from stages.nets.plain_classifier import Tap


class WatchedTower:
    """A frozen vision transformer of open_clip or timm whose blocks may be of any kind.

    Pools as it was trained to where that is by attention; else over the patches or at the class token, as asked for.
    Raises Unavailable for a tower that is no vision transformer.
    """

    def __init__(self, visual: Any) -> None:
        self._visual = visual.eval().requires_grad_(False)
        trunk = getattr(visual, "trunk", None)
        self._trunk, self._open = trunk, None
        if trunk is not None and hasattr(trunk, "blocks") and hasattr(trunk, "dynamic_img_size"):
            _take_any_size(trunk)
            blocks, self._prefix = trunk.blocks, int(trunk.num_prefix_tokens)
            self._norm, self.cell = blocks[-1].norm1, int(trunk.patch_embed.patch_size[0])
        elif trunk is None and hasattr(visual, "transformer"):
            blocks, self._prefix = visual.transformer.resblocks, 1
            self._norm, self.cell = blocks[-1].ln_1, int(visual.patch_size[0])
            self._open = visual.positional_embedding.data
        else:
            raise Unavailable(f"the image tower is a {type(trunk or visual).__name__}, which is no vision transformer",
                              "give --clip a ViT such as ViT-B-16, or a ResNet such as RN50")
        self.layers = len(blocks)

    def embed(self, images: Tensor, *, pooling: str = "average", capture: int = 0) -> Embedded:
        """Return the features of normalised `images` (B, 3, H, W), sides multiples of the patch."""
        grid = (images.shape[-2] // self.cell, images.shape[-1] // self.cell)
        self._pool_by(pooling)
        if self._open is not None:
            self._visual.positional_embedding = nn.Parameter(
                resized_positions(self._open, self._visual.grid_size, grid), requires_grad=False)
        rope = getattr(self._trunk, "rope", None)
        if getattr(rope, "feat_shape", None) is not None:
            with torch.inference_mode(False):
                rope.update_feat_shape(list(grid))
        with torch.inference_mode(False), torch.enable_grad(), Tap(self._norm) as tap, \
                _seen_attention(capture, grid[0] * grid[1] + self._prefix) as seen:
            embedding = self._visual(images.clone())
            embedding = embedding[0] if isinstance(embedding, tuple) else embedding
        if capture and not seen:
            raise Unavailable("the attention of this image tower can't be seen", "give --affinity none")
        skip = slice(self._prefix, None)
        mean = torch.stack([weights[:, skip, skip] for weights in seen]).mean(0) if capture else None
        return Embedded(tap.output.detach()[:, skip], embedding.detach(), mean, grid, (embedding, tap.output))

    def channel_weights(self, embedded: Embedded, cotangents: Tensor) -> Tensor:
        """Return (B, K, D): the mean over the patches of the gradient of K scores, by their gradient (B, K, E)."""
        embedding, leaf = embedded.run
        with torch.inference_mode(False), torch.enable_grad():
            asked = cotangents.clone().transpose(0, 1)
            (each,) = torch.autograd.grad(embedding, leaf, asked, retain_graph=True, is_grads_batched=True)
        return each[:, :, self._prefix:].mean(2).transpose(0, 1)

    def _pool_by(self, pooling: str) -> None:
        if self._trunk is not None and self._trunk.global_pool in ("avg", "token"):
            has_token = getattr(self._trunk, "cls_token", None) is not None
            self._trunk.global_pool = "token" if pooling == "class" and has_token else "avg"
        elif self._trunk is None and self._visual.attn_pool is None:
            self._visual.pool_type = "tok" if pooling == "class" else "avg"


def _take_any_size(trunk: Any) -> None:
    """Let a vision transformer of timm resize its position embeddings to each input."""
    from timm.layers import Format

    trunk.dynamic_img_size = True
    trunk.patch_embed.strict_img_size, trunk.patch_embed.flatten = False, False
    trunk.patch_embed.output_fmt = Format.NHWC


@contextlib.contextmanager
def _seen_attention(capture: int, tokens: int) -> Iterator[deque[Tensor]]:
    """While entered, attention over `tokens` tokens is computed openly; the last `capture` head means are kept."""
    seen: deque[Tensor] = deque(maxlen=max(1, capture))
    fused, fast = F.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()

    def openly(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, scale: float | None = None, **more: Any) -> Tensor:
        if attn_mask is not None or is_causal or not query.shape[-2] == key.shape[-2] == tokens:
            return fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        weights = torch.softmax((query * factor) @ key.transpose(-1, -2), dim=-1)
        if capture:
            seen.append(weights.detach().mean(-3))
        return weights @ value

    torch.backends.mha.set_fastpath_enabled(False)
    F.scaled_dot_product_attention = openly
    try:
        yield seen
    finally:
        F.scaled_dot_product_attention = fused
        torch.backends.mha.set_fastpath_enabled(fast)
