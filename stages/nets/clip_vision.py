"""The image tower of an open_clip model run layer by layer, for its feature map, attention and gradients.

Images may have any size whose sides are multiples of the patch size: position embeddings are resized to their grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.kernels.attention import attend
from stages.kernels.calibrated_attention import attend_calibrated, embed_calibrated_tokens
from stages.kernels.vit_last_block import LastBlockWeights, LayerNormParameters, compute_channel_weights, run_last_block
from stages.nets.packed_linear import build_frozen_linear
from stages.nets.position_embedding import resize_position_grid

# How position embeddings are resized to another grid: interpolation mode, and the offset added to the grid's sides.
POSITION_RESIZE_MODES = {"bilinear": ("bilinear", 0.0), "bicubic": ("bicubic", 0.0), "beside": ("bicubic", 0.1)}


class ImageFeatures(NamedTuple):
    """What an image tower returns for a batch of B images with N = h w patches.

    `patches` (B, N, D) is the feature map that Grad-CAM weights. `embedding` (B, E) is the pooled embedding before
    normalisation. `attention` (B, N, N) is the attention averaged over the heads of the requested blocks, without the
    row and column of the class token. `grid` is (h, w). `backward_state` holds what the gradient needs.
    """

    patches: Tensor
    embedding: Tensor
    attention: Tensor | None
    grid: tuple[int, int]
    backward_state: Any


class CalibratedFeatures(NamedTuple):
    """What the calibrated stream of an image tower returns for a batch of B images with N = h w patches.

    `tokens` (B, 1 + N, E) are embeddings before normalisation, that of the class token first. `attention` (B, N, N) is
    the attention of the ordinary stream, averaged over heads and blocks, or None. `grid` is (h, w).
    """

    tokens: Tensor
    attention: Tensor | None
    grid: tuple[int, int]


class VisionTower:
    """The frozen vision transformer of a CLIP; weights are in `dtype`, except for the last block, which is in float32.

    The feature map is the input of the last self-attention (CLIP-ES, section 4.1). The tower must be one for which
    `is_plain_vit` returns True.
    """

    def __init__(self, visual: Any, *, dtype: torch.dtype = torch.float32, round_positions: bool = False,
                 positions: str = "bilinear") -> None:
        self._visual = visual.eval().requires_grad_(False)
        self._resize_arguments = POSITION_RESIZE_MODES[positions]
        self.cell = int(visual.patch_size[0])
        self.num_layers = len(visual.transformer.resblocks)
        self.tail = extract_tail_weights(visual)
        self.num_heads = self.tail.num_heads
        self._dtype, self._rounds_positions = dtype, round_positions
        is_half = dtype in (torch.bfloat16, torch.float16)
        self._blocks = [_build_half_block(block, dtype) if is_half else _build_block(block)
                        for block in visual.transformer.resblocks[:-1]]
        self._cached_positions: dict[tuple[int, int], Tensor] = {}

    def embed(self, images: Tensor, *, pooling: str = "average", num_attention_layers: int = 0) -> ImageFeatures:
        """Return the features of normalised `images` (B, 3, H, W), whose sides are multiples of the patch size.

        `pooling` is "average" (over the patches) or "class" (at the class token). The attention returned is the mean
        over the last `num_attention_layers` blocks.
        """
        tokens, grid, attention = self._run_trunk(images, num_attention_layers)
        tail = run_last_block(self.tail, tokens, pooling)
        if num_attention_layers:
            attention = _accumulate(tail.attention.mean(1)[:, 1:, 1:], attention).div_(
                min(num_attention_layers, self.num_layers))
        return ImageFeatures(tail.normed[:, 1:], tail.embedding, attention, grid, tail)

    def embed_calibrated(self, images: Tensor, *, num_calibrated_blocks: int, num_attention_layers: int = 0,
                         plain_block_weight: float = 1.0) -> CalibratedFeatures:
        """Return the embeddings of all tokens of `images` (B, 3, H, W) after the last blocks with calibrated attention.

        The attention returned is the mean over the last `num_attention_layers` blocks; in it, blocks before the
        `num_calibrated_blocks` last ones weigh `plain_block_weight` instead of 1.
        """
        tokens, grid = self._embed_patches(images)
        first_calibrated = self.num_layers - num_calibrated_blocks
        stream = total = None
        for index, block in enumerate(self._blocks):
            stream = tokens.clone() if index == first_calibrated else stream
            needs_attention = index + num_attention_layers >= self.num_layers
            tokens, attention = _run_block(block, tokens, self._dtype, needs_attention=needs_attention, stream=stream)
            if attention is not None and index < first_calibrated:
                attention *= plain_block_weight
            total = _accumulate(total, attention)
        tail = run_last_block(self.tail, tokens, "class")
        embedded = embed_calibrated_tokens(self.tail, tail, tokens if stream is None else stream)
        if num_attention_layers:
            total = _accumulate(tail.attention.mean(1)[:, 1:, 1:], total).div_(
                min(num_attention_layers, self.num_layers))
        return CalibratedFeatures(embedded, total, grid)

    def forward_trunk(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + N, D) that enter the last block, class token first, and their grid (h, w)."""
        tokens, grid, _ = self._run_trunk(images, 0)
        return tokens, grid

    def step_through_blocks(self, images: Tensor) -> Iterator[tuple[Block | None, Tensor, tuple[int, int]]]:
        """Yield (block, the tokens (B, 1 + N, D) that enter it, their grid) for each block; None for the last block.

        The block runs when the next one is asked for, and overwrites the tokens.
        """
        tokens, grid = self._embed_patches(images)
        for block in self._blocks:
            yield block, tokens, grid
            tokens, _ = _run_block(block, tokens, self._dtype, needs_attention=False)
        yield None, tokens, grid

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the products of all blocks but the last are computed."""
        return self._dtype

    def _run_trunk(self, images: Tensor, num_attention_layers: int) -> tuple[Tensor, tuple[int, int], Any]:
        """Run all blocks but the last; also return the sum of the attention of those that are requested, or None."""
        tokens, grid = self._embed_patches(images)
        total = None
        for index, block in enumerate(self._blocks):
            needs_attention = index + num_attention_layers > len(self._blocks)
            tokens, attention = _run_block(block, tokens, self._dtype, needs_attention=needs_attention)
            total = _accumulate(total, attention)
        return tokens, grid, total

    def _embed_patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + N, D) that enter the first block, and their grid (h, w)."""
        visual = self._visual
        stem = visual.conv1(images)
        grid = (int(stem.shape[-2]), int(stem.shape[-1]))
        tokens = torch.cat([visual.class_embedding.expand(len(images), 1, -1), stem.flatten(2).transpose(1, 2)], dim=1)
        return visual.ln_pre(tokens + self._get_positions(*grid)), grid

    def compute_channel_weights(self, embedded: ImageFeatures, cotangents: Tensor) -> Tensor:
        """Compute the gradients of K scores with respect to the feature map, averaged over its patches: (B, K, D).

        `cotangents` (B, K, E) are the gradients of the scores with respect to the embedding.
        """
        return compute_channel_weights(self.tail, embedded.backward_state, cotangents)

    def _get_positions(self, height: int, width: int) -> Tensor:
        """Return the position embeddings (1 + N, D) for a grid, resized once and then cached."""
        if (height, width) not in self._cached_positions:
            positions, native_grid = self._visual.positional_embedding, self._visual.grid_size
            resized = resize_positions(positions, native_grid, (height, width), *self._resize_arguments)
            if self._rounds_positions:
                resized = resized.half().to(resized.dtype)
            self._cached_positions[height, width] = resized
        return self._cached_positions[height, width]


def resize_positions(positions: Tensor, native_grid: tuple[int, int], grid: tuple[int, int], mode: str = "bilinear",
                     interpolate_offset: float = 0.0) -> Tensor:
    """Resize position embeddings from `native_grid` to `grid` (h, w): (1 + h w, D), class token first.

    `interpolate_offset` is explained at `resize_position_grid`.
    """
    if tuple(native_grid) == tuple(grid):
        return positions
    resized = resize_position_grid(positions[1:].T.reshape(1, -1, *native_grid), grid, mode, interpolate_offset)
    return torch.cat([positions[:1], resized.flatten(2)[0].T])


def _accumulate(total: Any, attention: Tensor | None) -> Any:
    """Add attention to the running total in place; either may be None."""
    if total is None or attention is None:
        return attention if total is None else total
    return total.add_(attention)


def is_plain_vit(visual: Any) -> bool:
    """Return whether `visual` is a vision transformer of open_clip's standard blocks, which `VisionTower` supports."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        return False
    blocks = visual.transformer.resblocks
    return (all(type(block) is ResidualAttentionBlock for block in blocks)
            and _get_activation_name(blocks[-1]) is not None
            and visual.patch_size[0] == visual.patch_size[1])


def extract_tail_weights(visual: Any) -> LastBlockWeights:
    """Return the weights of the last block, the final norm and the projection of a plain ViT tower."""
    block = visual.transformer.resblocks[-1]
    attention = block.attn
    return LastBlockWeights(
        attention.num_heads, _get_norm_parameters(block.ln_1),
        (attention.in_proj_weight.data, attention.in_proj_bias.data),
        _fold_layer_scale(attention.out_proj, block.ls_1), _get_norm_parameters(block.ln_2),
        (block.mlp.c_fc.weight.data, block.mlp.c_fc.bias.data), _fold_layer_scale(block.mlp.c_proj, block.ls_2),
        str(_get_activation_name(block)), _get_norm_parameters(visual.ln_post),
        visual.final_ln_after_pool, visual.proj.data)


def _get_norm_parameters(norm: nn.LayerNorm) -> LayerNormParameters:
    return LayerNormParameters(norm.weight.data, norm.bias.data, norm.eps)


def _fold_layer_scale(linear: nn.Linear, scale: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a linear layer with the layer scale that follows it multiplied in."""
    gamma = getattr(scale, "gamma", None)
    if gamma is None:
        return linear.weight.data, linear.bias.data
    return linear.weight.data * gamma.data[:, None], linear.bias.data * gamma.data


def _get_activation_name(block: Any) -> str | None:
    """Return the key of the block's activation in `stages.kernels.vit_last_block`, or None for an unknown one."""
    names = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
    is_exact = getattr(block.mlp.gelu, "approximate", "none") == "none"
    return names.get(type(block.mlp.gelu).__name__) if is_exact else None


class Block(NamedTuple):
    """A block with the functions that compute its matrix products.

    `qkv` and `mlp` take the output of a layer norm, `output` takes the concatenated outputs of the heads.
    """

    block: Any
    qkv: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


def _build_block(block: Any) -> Block:
    """Return a block whose products use its own weights unchanged."""
    attention = block.attn
    qkv = partial(F.linear, weight=attention.in_proj_weight, bias=attention.in_proj_bias)
    return Block(block, qkv, attention.out_proj, block.mlp)


def _build_half_block(block: Any, dtype: torch.dtype) -> Block:
    """Convert the weights of a block to the half precision `dtype`, in which its products are then computed."""
    attention, mlp = block.attn, block.mlp
    _fold_query_scale(attention)
    uses_silu = _get_activation_name(block) == "quick_gelu"
    if uses_silu:
        _fold_quick_gelu(mlp)
    for parameter in _list_linear_parameters(block):
        parameter.data = parameter.data.to(dtype)
    up = build_frozen_linear(mlp.c_fc.weight, mlp.c_fc.bias, "silu" if uses_silu else "")
    down = build_frozen_linear(mlp.c_proj.weight, mlp.c_proj.bias)
    return Block(block, build_frozen_linear(attention.in_proj_weight, attention.in_proj_bias),
                  build_frozen_linear(attention.out_proj.weight, attention.out_proj.bias),
                  lambda tokens: down(up(tokens) if uses_silu else mlp.gelu(up(tokens))))


def _fold_quick_gelu(mlp: Any) -> None:
    """Fold the factors of the quick GELU into the weights, so that SiLU can replace it: one pass instead of three.

    x sigmoid(1.702 x) = silu(1.702 x) / 1.702.
    """
    mlp.c_fc.weight.data *= 1.702
    mlp.c_fc.bias.data *= 1.702
    mlp.c_proj.weight.data /= 1.702


def _fold_query_scale(attention: Any) -> None:
    """Fold the division by the square root of a head's width into the query weights, which saves a pass."""
    width = attention.in_proj_weight.shape[1]
    factor = (width // attention.num_heads) ** -0.5
    attention.in_proj_weight.data[:width] *= factor
    attention.in_proj_bias.data[:width] *= factor


def _list_linear_parameters(block: Any) -> list[nn.Parameter]:
    attention, mlp = block.attn, block.mlp
    return [attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias,
            mlp.c_fc.weight, mlp.c_fc.bias, mlp.c_proj.weight, mlp.c_proj.bias]


def _run_block(layer: Block, tokens: Tensor, dtype: torch.dtype, *, needs_attention: bool,
               stream: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Run a block in place on `tokens`; return them and, when needed, the attention of the patches, else None.

    The attention (B, N, N) is the mean over the heads, without the row and column of the class token. The residual
    stream keeps its dtype; the products are computed in `dtype`. A calibrated `stream` (B, 1 + N, D) is updated in
    place.
    """
    block, num_heads = layer.block, layer.block.attn.num_heads
    qkv = layer.qkv(block.ln_1(tokens).to(dtype))
    query, key, value = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    attention = None
    is_half = dtype != tokens.dtype
    if stream is not None:
        # In half precision the weights of the queries contain the scale of the attention, which is applied there.
        unscaled = query * query.shape[-1] ** 0.5 if is_half else query
        stream += block.ls_1(layer.output(attend_calibrated(unscaled, key, value)))
    # In half precision on a CPU, fused attention takes 25 ms per block at 769 tokens, plain attention 16 ms.
    if needs_attention or (tokens.device.type == "cpu" and is_half):
        query = query if is_half else query * query.shape[-1] ** -0.5
        context, weight_sums = attend(query, key, value)
        attention = weight_sums[:, 1:, 1:].to(tokens.dtype).div_(num_heads) if needs_attention else None
    else:
        context = F.scaled_dot_product_attention(query, key, value, scale=1.0 if is_half else None)
    tokens += block.ls_1(layer.output(context.transpose(1, 2).flatten(2)))
    tokens += block.ls_2(layer.mlp(block.ln_2(tokens).to(dtype)))
    return tokens, attention
