"""The image tower of an open_clip model, opened up: features, attention on the way, and gradients.

Images of any size whose sides are multiples of the patch: position embeddings are resized to their grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.kernels.vit_tail import Affine, TailWeights, channel_weights, run_tail
from stages.nets.packed_linear import frozen_linear
from stages.nets.positions import resized_cells

# How position embeddings get to another grid: interpolation, and what is added to the sides of the grid.
POSITIONS = {"bilinear": ("bilinear", 0.0), "bicubic": ("bicubic", 0.0), "beside": ("bicubic", 0.1)}


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

    def __init__(self, visual: Any, *, dtype: torch.dtype = torch.float32, round_positions: bool = False,
                 positions: str = "bilinear") -> None:
        self._visual = visual.eval().requires_grad_(False)
        self._resizing = POSITIONS[positions]
        self.cell = int(visual.patch_size[0])
        self.layers = len(visual.transformer.resblocks)
        self.tail = tail_weights(visual)
        self._dtype, self._round = dtype, round_positions
        half = dtype in (torch.bfloat16, torch.float16)
        self._blocks = [_in_half(block, dtype) if half else _as_it_is(block)
                        for block in visual.transformer.resblocks[:-1]]
        self._positions: dict[tuple[int, int], Tensor] = {}

    def embed(self, images: Tensor, *, pooling: str = "average", capture: int = 0) -> Embedded:
        """Return the features of normalised `images` (B, 3, H, W), sides multiples of the patch.

        `pooling` is over the patches, or at the class token; the attention of the last `capture` blocks is kept.
        """
        rows, grid, total = self._trunk(images, capture)
        run = run_tail(self.tail, rows, pooling)
        if capture:
            total = _plus(run.attention.mean(1)[:, 1:, 1:], total).div_(min(capture, self.layers))
        return Embedded(run.normed[:, 1:], run.embedding, total, grid, run)

    def trunk(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + N, D) that enter the last block, class token first, and their grid (h, w)."""
        rows, grid, _ = self._trunk(images, 0)
        return rows, grid

    def _trunk(self, images: Tensor, capture: int) -> tuple[Tensor, tuple[int, int], Any]:
        visual = self._visual
        stem = visual.conv1(images)
        grid = (int(stem.shape[-2]), int(stem.shape[-1]))
        rows = torch.cat([visual.class_embedding.expand(len(images), 1, -1), stem.flatten(2).transpose(1, 2)], dim=1)
        rows = visual.ln_pre(rows + self._position_embedding(*grid))
        total = None
        for place, block in enumerate(self._blocks):
            rows, attention = _run_block(block, rows, self._dtype, wanted=place + capture > len(self._blocks))
            total = _plus(total, attention)
        return rows, grid, total

    def channel_weights(self, embedded: Embedded, cotangents: Tensor) -> Tensor:
        """Return (B, K, D): the mean over the patches of the gradient of K scores, by their gradient (B, K, E)."""
        return channel_weights(self.tail, embedded.run, cotangents)

    def _position_embedding(self, height: int, width: int) -> Tensor:
        if (height, width) not in self._positions:
            positions, own = self._visual.positional_embedding, self._visual.grid_size
            resized = resized_positions(positions, own, (height, width), *self._resizing)
            self._positions[height, width] = resized.half().to(resized.dtype) if self._round else resized
        return self._positions[height, width]


def resized_positions(positions: Tensor, own: tuple[int, int], grid: tuple[int, int], mode: str = "bilinear",
                      beside: float = 0.0) -> Tensor:
    """Return position embeddings (1 + h w, D), class token first, for `grid` (h, w), from those for the grid `own`.

    `beside` is that of `resized_cells`.
    """
    if tuple(own) == tuple(grid):
        return positions
    resized = resized_cells(positions[1:].T.reshape(1, -1, *own), grid, mode, beside)
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


class _Block(NamedTuple):
    """A block and its products: of the layer norms' outputs, and of the heads' joined outputs."""

    block: Any
    qkv: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


def _as_it_is(block: Any) -> _Block:
    attention = block.attn
    qkv = partial(F.linear, weight=attention.in_proj_weight, bias=attention.in_proj_bias)
    return _Block(block, qkv, attention.out_proj, block.mlp)


def _in_half(block: Any, dtype: torch.dtype) -> _Block:
    """Return a block whose products are done in `dtype`."""
    attention, mlp = block.attn, block.mlp
    _scale_query(attention)
    silu = _activation_name(block) == "quick_gelu"
    if silu:
        _use_silu(mlp)
    for linear in _linears(block):
        linear.data = linear.data.to(dtype)
    up = frozen_linear(mlp.c_fc.weight, mlp.c_fc.bias, "silu" if silu else "")
    down = frozen_linear(mlp.c_proj.weight, mlp.c_proj.bias)
    return _Block(block, frozen_linear(attention.in_proj_weight, attention.in_proj_bias),
                  frozen_linear(attention.out_proj.weight, attention.out_proj.bias),
                  lambda rows: down(up(rows) if silu else mlp.gelu(up(rows))))


def _use_silu(mlp: Any) -> None:
    """Let the quick GELU be one pass instead of three: x sigmoid(1.702 x) = silu(1.702 x) / 1.702."""
    mlp.c_fc.weight.data *= 1.702
    mlp.c_fc.bias.data *= 1.702
    mlp.c_proj.weight.data /= 1.702


def _scale_query(attention: Any) -> None:
    """Put the division by the root of a head's width into the query's weights, so that no pass over it is needed."""
    width = attention.in_proj_weight.shape[1]
    factor = (width // attention.num_heads) ** -0.5
    attention.in_proj_weight.data[:width] *= factor
    attention.in_proj_bias.data[:width] *= factor


def _linears(block: Any) -> list[nn.Parameter]:
    attention, mlp = block.attn, block.mlp
    return [attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias,
            mlp.c_fc.weight, mlp.c_fc.bias, mlp.c_proj.weight, mlp.c_proj.bias]


def _run_block(one: _Block, rows: Tensor, dtype: torch.dtype, *, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the block's output, in the place of its input, and its mean attention over the patches where wanted.

    The residual stream keeps its type; the products are done in `dtype`.
    """
    block, heads = one.block, one.block.attn.num_heads
    joined = one.qkv(block.ln_1(rows).to(dtype))
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, dim=-1))
    softmax = None
    half = dtype != rows.dtype
    # In half precision on a CPU the fused attention takes 25 ms a block at 769 tokens, the plain one 16 ms.
    if wanted or (rows.device.type == "cpu" and half):
        query = query if half else query * query.shape[-1] ** -0.5
        weights = torch.matmul(query, key.transpose(-1, -2)).softmax(dim=-1)
        context = torch.matmul(weights, value)
        softmax = weights.sum(1)[:, 1:, 1:].to(rows.dtype).div_(heads) if wanted else None
    else:
        context = F.scaled_dot_product_attention(query, key, value, scale=1.0 if half else None)
    rows += block.ls_1(one.output(context.transpose(1, 2).flatten(2)))
    rows += block.ls_2(one.mlp(block.ln_2(rows).to(dtype)))
    return rows, softmax
