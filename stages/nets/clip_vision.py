"""The image tower of an open_clip model, opened up: features, attention on the way, and gradients.

Images of any size whose sides are multiples of the patch: position embeddings are resized to their grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.kernels.vit_tail import Affine, TailWeights, channel_weights, run_tail


class Embedded(NamedTuple):
    """A batch after the tower: B images of N = h w patches.

    `patches` (B, N, D) is the feature map that Grad-CAM weighs, `embedding` (B, E) the pooled embedding before
    normalisation, `attention` (B, N, N) the mean softmax of the blocks asked for, over their heads, without the
    class token's row and column, `grid` is (h, w), `run` what the gradient needs.
    """

    patches: Tensor
    embedding: Tensor
    attention: Tensor | None
    grid: tuple[int, int]
    run: Any


class VisionTower:
    """The frozen vision transformer of a CLIP; weights in `dtype`, but for the last block's in float32.

    Its feature map is the input of the last self-attention (CLIP-ES, section 4.1). The tower is one that
    `is_ordinary`.
    """

    def __init__(self, visual: Any, *, dtype: torch.dtype = torch.float32, round_positions: bool = False) -> None:
        self._visual = visual.eval().requires_grad_(False)
        self.cell = int(visual.patch_size[0])
        self.layers = len(visual.transformer.resblocks)
        self._tail = tail_weights(visual)
        self._dtype, self._round = dtype, round_positions
        for block in visual.transformer.resblocks[:-1]:
            if dtype != torch.float32 and _activation_name(block) == "quick_gelu":
                _use_silu(block.mlp)
            for linear in _linears(block):
                linear.data = linear.data.to(dtype)
        self._positions: dict[tuple[int, int], Tensor] = {}

    def embed(self, images: Tensor, *, pooling: str = "average", capture: int = 0) -> Embedded:
        """Return the features of normalised `images` (B, 3, H, W), sides multiples of the patch.

        `pooling` is over the patches, or at the class token; the attention of the last `capture` blocks is kept.
        """
        visual = self._visual
        stem = visual.conv1(images)
        grid = (int(stem.shape[-2]), int(stem.shape[-1]))
        rows = torch.cat([visual.class_embedding.expand(len(images), 1, -1), stem.flatten(2).transpose(1, 2)], dim=1)
        rows = visual.ln_pre(rows + self._position_embedding(*grid))
        blocks = visual.transformer.resblocks[:-1]
        total = None
        for place, block in enumerate(blocks):
            rows, attention = _run_block(block, rows, self._dtype, wanted=place + capture > len(blocks))
            total = _plus(total, attention)
        run = run_tail(self._tail, rows, pooling)
        if capture:
            total = _plus(run.attention.mean(1)[:, 1:, 1:], total).div_(min(capture, self.layers))
        return Embedded(run.normed[:, 1:], run.embedding, total, grid, run)

    def channel_weights(self, embedded: Embedded, cotangents: Tensor) -> Tensor:
        """Return (B, K, D): the mean over the patches of the gradient of K scores, by their gradient (B, K, E)."""
        return channel_weights(self._tail, embedded.run, cotangents)

    def _position_embedding(self, height: int, width: int) -> Tensor:
        if (height, width) not in self._positions:
            positions, own = self._visual.positional_embedding, self._visual.grid_size
            resized = resized_positions(positions, own, (height, width))
            self._positions[height, width] = resized.half().to(resized.dtype) if self._round else resized
        return self._positions[height, width]


def resized_positions(positions: Tensor, own: tuple[int, int], grid: tuple[int, int],
                      mode: str = "bilinear") -> Tensor:
    """Return position embeddings (1 + h w, D), class token first, for `grid` (h, w), from those for the grid `own`."""
    if tuple(own) == tuple(grid):
        return positions
    cells = positions[1:].T.reshape(1, -1, *own)
    resized = F.interpolate(cells, grid, mode=mode, align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2)[0].T])


def _plus(total: Any, more: Tensor | None) -> Any:
    if total is None or more is None:
        return more if total is None else total
    return total.add_(more)


def is_ordinary(visual: Any) -> bool:
    """Say whether `visual` is a vision transformer of open_clip's ordinary blocks, which `VisionTower` takes apart."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        return False
    blocks = visual.transformer.resblocks
    return (all(type(block) is ResidualAttentionBlock for block in blocks) and _activation_name(blocks[-1]) is not None
            and visual.patch_size[0] == visual.patch_size[1])


def tail_weights(visual: Any) -> TailWeights:
    """Return the weights of the last block, the final norm and the projection of an ordinary tower."""
    block = visual.transformer.resblocks[-1]
    attention = block.attn
    return TailWeights(
        attention.num_heads, _affine(block.ln_1), (attention.in_proj_weight.data, attention.in_proj_bias.data),
        _scaled(attention.out_proj, block.ls_1), _affine(block.ln_2),
        (block.mlp.c_fc.weight.data, block.mlp.c_fc.bias.data), _scaled(block.mlp.c_proj, block.ls_2),
        str(_activation_name(block)), _affine(visual.ln_post), visual.final_ln_after_pool, visual.proj.data)


def _affine(norm: nn.LayerNorm) -> Affine:
    return Affine(norm.weight.data, norm.bias.data, norm.eps)


def _scaled(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor]:
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return linear.weight.data, linear.bias.data
    return linear.weight.data * gamma.data[:, None], linear.bias.data * gamma.data


def _activation_name(block: Any) -> str | None:
    names = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
    plain = getattr(block.mlp.gelu, "approximate", "none") == "none"
    return names.get(type(block.mlp.gelu).__name__) if plain else None


def _use_silu(mlp: Any) -> None:
    """Let the quick GELU be one pass instead of three: x sigmoid(1.702 x) = silu(1.702 x) / 1.702."""
    mlp.c_fc.weight.data *= 1.702
    mlp.c_fc.bias.data *= 1.702
    mlp.c_proj.weight.data /= 1.702
    mlp.gelu = nn.SiLU(inplace=True)


def _linears(block: Any) -> list[nn.Parameter]:
    attention, mlp = block.attn, block.mlp
    return [attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias,
            mlp.c_fc.weight, mlp.c_fc.bias, mlp.c_proj.weight, mlp.c_proj.bias]


def _run_block(block: Any, rows: Tensor, dtype: torch.dtype, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the block's output, and its mean attention over the patches where that is wanted.

    The residual stream keeps its type; the products are done in `dtype`.
    """
    attention = block.attn
    joined = F.linear(block.ln_1(rows).to(dtype), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (one.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
                         for one in joined.chunk(3, dim=-1))
    softmax = None
    # In half precision on a CPU the fused attention takes 25 ms a block at 769 tokens, the plain one 16 ms.
    if wanted or (rows.device.type == "cpu" and dtype != rows.dtype):
        weights = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2)).softmax(dim=-1)
        context = torch.matmul(weights, value)
        softmax = weights.sum(1)[:, 1:, 1:].to(rows.dtype).div_(attention.num_heads) if wanted else None
    else:
        context = F.scaled_dot_product_attention(query, key, value)
    rows = rows + block.ls_1(attention.out_proj(context.transpose(1, 2).flatten(2)).to(rows.dtype))
    return rows + block.ls_2(block.mlp(block.ln_2(rows).to(dtype)).to(rows.dtype)), softmax
