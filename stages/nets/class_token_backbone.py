"""A timm vision transformer with one class token per class, whose attention can be recorded.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (MCTformer, CVPR 2022),
section 3.1. Weights keep timm's names; `cls_token` is (1, C, D) and `pos_embed` is (1, C + N, D), classes first.

The tokens are the output of the last block: as in the released code, the final LayerNorm of the ViT is removed.
MCTformer uses the mean over a token's channels as the logit of the class. For a normalised token this would be the
mean of the norm's bias plus a term bounded by the spread of its gains: 0 when all gains are equal, so that nothing
could be learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.errors import BadData, UsageError
from stages.nets.attention_record import AttentionRecord, attend_by_heads, can_attend_by_heads
from stages.nets.backbone import check_stride
from stages.nets.position_embedding import resize_position_grid
from stages.nets.precision import promote_to_fp32
from stages.nets.registry import resolve_backbone_name
from stages.nets.timm_backbone import TimmBackbone, create_timm_backbone
from stages.nets.weight_names import strip_backbone_prefix

EXAMPLE_NET = "timm:deit_small_patch16_224"
MAX_POSITION_SIZE = 4096
FINAL_NORM_NAMES = ("norm", "fc_norm")


class TokenOutputs(NamedTuple):
    """The tokens (B, T, D) after the last layer, and the class tokens after each layer (L, B, C, D).

    The tokens are the C class tokens, the registers if there are any, and the N patch tokens row by row.
    """

    tokens: Tensor
    class_tokens: Tensor


class ClassTokenBackbone(TimmBackbone):
    """A timm ViT with `num_classes` class tokens; its map (B, D, h, w) holds the patch tokens of the last block.

    Position embeddings are learnt for images of `position_size` pixels a side (0: the network's own size) and are
    resized for other images. Raises UsageError for a network that is not a ViT with a class token and learnt position
    embeddings, and for a size that is not a multiple of the patch size.
    """

    no_decay_names = ("cls_token", "pos_embed", "reg_token")

    def __init__(self, name: str, num_classes: int, *, stride: int | None = None, drop_path: float = 0.0,
                 position_size: int = 0) -> None:
        source, short = resolve_backbone_name(name)
        if source != "timm":
            raise UsageError(f"--net {name} is not a timm vision transformer", f"Use for example --net {EXAMPLE_NET}")
        if not 0 <= position_size <= MAX_POSITION_SIZE:
            raise UsageError(f"--position-size {position_size} is out of range",
                             f"Use a value from 0 (the size of the network) to {MAX_POSITION_SIZE}")
        super().__init__(short)
        check_stride(self.name, stride, self.stride)
        model: Any = self.model
        if not _is_supported_vit(model):
            raise UsageError(f"--net {self.name} is not a plain vision transformer with a class token and learnt "
                             "position embeddings", f"Use for example --net {EXAMPLE_NET}")
        if position_size:
            self._set_model(_create_resized_vit(short, position_size, self.stride))
            model = self.model
        self.num_classes, self.position_size = num_classes, position_size
        self.exact_positions, self.released_position_offset = True, 0.1
        self.grid = (int(model.patch_embed.grid_size[0]), int(model.patch_embed.grid_size[1]))
        self._replace_tokens(model)
        self._remove_final_norm(model)
        self._set_drop_path(model.blocks, drop_path)
        # Class tokens are initialised afresh, so they must be trained even when the stem is frozen.
        self.block_prefixes = {block: tuple(prefix for prefix in prefixes if prefix != "model.cls_token")
                               for block, prefixes in self.block_prefixes.items()}

    def _replace_tokens(self, model: Any) -> None:
        """Replace the class token and the position embeddings by new ones for all classes."""
        if hasattr(model, "dist_token"):
            del model.dist_token
        width, cells = model.embed_dim, self.grid[0] * self.grid[1]
        model.cls_token = nn.Parameter(torch.empty(1, self.num_classes, width))
        model.pos_embed = nn.Parameter(torch.empty(1, self.num_classes + cells, width))
        for parameter in (model.cls_token, model.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        model.num_prefix_tokens = self.num_classes + model.num_reg_tokens

    def _remove_final_norm(self, model: Any) -> None:
        """Remove the LayerNorm after the blocks; in a ViT with average pooling it comes after the pooling."""
        for name in FINAL_NORM_NAMES:
            setattr(model, name, nn.Identity())
            self.block_prefixes.pop(name, None)
        self.blocks = tuple(block for block in self.blocks if block not in FINAL_NORM_NAMES)

    @staticmethod
    def _set_drop_path(blocks: nn.Sequential, rate: float) -> None:
        """Set stochastic depth, whose probability rises linearly to `rate` (Huang et al., 2016; DeiT)."""
        from timm.layers import DropPath

        for index, block in enumerate(blocks):
            if rate and index:
                probability = rate * index / (len(blocks) - 1)
                block.drop_path1, block.drop_path2 = DropPath(probability), DropPath(probability)

    def forward_tokens(self, images: Tensor) -> TokenOutputs:
        """Return the tokens of images (B, 3, H, W)."""
        model: Any = self.model
        tokens = model.norm_pre(self._embed_images(images))
        class_tokens = []
        for block in model.blocks:
            tokens = block(tokens)
            class_tokens.append(tokens[:, :self.num_classes])
        return TokenOutputs(tokens, torch.stack(class_tokens))

    def forward(self, images: Tensor) -> Tensor:
        """Return the patch tokens of the last block as a map (B, D, h, w)."""
        return self.tokens_to_map(self.forward_tokens(images).tokens, images)

    def tokens_to_map(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Return the patch tokens among the tokens (B, T, D) of `images` as a map (B, D, h, w)."""
        return self._to_map(tokens, images)

    def compute_patch_grid(self, images: Tensor) -> tuple[int, int]:
        """Return (h, w), the grid of patches of images (B, 3, H, W)."""
        return self._compute_patch_grid(images)

    def _embed_images(self, images: Tensor) -> Tensor:
        """Return the tokens (B, T, D) that enter the first block."""
        model: Any = self.model
        patches = model.patch_embed(self._pad_to_whole_cells(images)).flatten(1, 2)
        positions = self.get_positions(self._compute_patch_grid(images))
        classes = (model.cls_token + positions[:, :self.num_classes]).expand(len(images), -1, -1)
        registers = [] if model.reg_token is None else [model.reg_token.expand(len(images), -1, -1)]
        return model.pos_drop(torch.cat([classes, *registers, patches + positions[:, self.num_classes:]], dim=1))

    def get_positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embeddings (1, C + N, D) for a grid of (h, w) patches; patches are resized bicubically.

        The released code of V1 and V2 scales by (h + 0.1) / h0 to guard against rounding, and therefore samples the
        positions up to 0.1 of a patch away from their centres. When `exact_positions` is False this method does the
        same with `released_position_offset` in place of 0.1.
        """
        positions = self.model.pos_embed
        if grid == self.grid:
            return positions
        classes, patches = positions[:, :self.num_classes], positions[:, self.num_classes:]
        offset = 0.0 if self.exact_positions else self.released_position_offset
        resized = resize_patch_positions(patches, self.grid, grid, interpolate_offset=offset)
        return torch.cat([classes, resized], dim=1)

    @contextmanager
    def record_attention(self, layers: int | None = None, *, heads: bool = False) -> Iterator[AttentionRecord]:
        """Record attention maps: within the context, one forward pass adds those of the last `layers` layers.

        They come in the order of the layers; None means all layers. Each map is (B, T, T), the mean over the heads, or
        (B, heads, T, T) with `heads`. Maps are in float32 or wider, and their rows sum to 1.
        """
        blocks = list(self.model.blocks)
        modules = [block.attn for block in (blocks if layers is None else blocks[len(blocks) - layers:])]
        record = AttentionRecord(len(modules))

        def add_map(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            attention = promote_to_fp32(inputs[0])
            record.add(attention if heads else attention.mean(1))

        fused_flags = [module.fused_attn for module in modules]
        # Fused attention never exposes its softmax; unfused attention passes it through its dropout.
        handles = [module.attn_drop.register_forward_pre_hook(add_map) for module in modules]
        for module in modules:
            module.fused_attn = False
            if not heads and can_attend_by_heads(module):
                module.forward = partial(attend_by_heads, module, record.add)
        try:
            yield record
        finally:
            for module, is_fused, handle in zip(modules, fused_flags, handles, strict=True):
                module.fused_attn = is_fused
                module.__dict__.pop("forward", None)
                handle.remove()

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.model.blocks)

    def adapt_state_dict(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the weights of a ViT: repeat its class token, and that token's position, for every class.

        Position embeddings of another square grid are resized, a distillation token is dropped, and positions of
        registers are added to the registers. Weights of the released MCTformer are renamed to our names. Other weights
        are returned unchanged. Raises BadData for weights with several class tokens whose position embeddings are for
        another grid: after resizing, they would not be those that the tokens were trained with.
        """
        state = _rename_released_weights({strip_backbone_prefix(name): tensor for name, tensor in state.items()})
        token, positions = state.get("cls_token"), state.get("pos_embed")
        if token is None or positions is None or token.ndim != 3 or positions.ndim != 3:
            return state
        if token.shape[1] != 1:
            self._check_positions(token, positions)
            return state
        prefix, patches = self._split_positions(positions)
        class_position = prefix[:, :1] if prefix.shape[1] else torch.zeros_like(token)
        registers = state.get("reg_token")
        if registers is not None and prefix.shape[1] == 1 + registers.shape[1]:
            state["reg_token"] = registers + prefix[:, 1:]
        state["cls_token"] = token.repeat(1, self.num_classes, 1)
        state["pos_embed"] = torch.cat([class_position.repeat(1, self.num_classes, 1), patches], dim=1)
        return state

    def _check_positions(self, token: Tensor, positions: Tensor) -> None:
        """Raise BadData when weights with as many class tokens as classes have positions for another square grid."""
        num_patches, num_cells = positions.shape[1] - token.shape[1], self.grid[0] * self.grid[1]
        side = isqrt(max(num_patches, 0))
        if token.shape[1] == self.num_classes and num_patches != num_cells and side * side == num_patches:
            raise BadData(f"the weights have position embeddings for {side} x {side} patches but the network for "
                          f"{self.grid[0]} x {self.grid[1]}", f"Use --position-size {side * self.stride}")

    def _split_positions(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the position embeddings of a ViT's prefix tokens, and those of its patches, resized to our grid."""
        num_positions, num_cells = positions.shape[1], self.grid[0] * self.grid[1]
        side = isqrt(num_positions)
        if 0 <= num_positions - num_cells <= 1 + max(1, self.model.num_reg_tokens):
            return positions[:, :num_positions - num_cells], positions[:, num_positions - num_cells:]
        num_prefix = num_positions - side * side
        patches = resize_patch_positions(positions[:, num_prefix:].float(), (side, side), self.grid)
        return positions[:, :num_prefix], patches


def resize_patch_positions(patches: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], *,
                           interpolate_offset: float = 0.0) -> Tensor:
    """Resize position embeddings from `old_grid` to `new_grid` (h, w); the result is (1, h * w, D).

    `interpolate_offset` is explained at `resize_position_grid`.
    """
    maps = patches.transpose(1, 2).unflatten(-1, old_grid)
    return resize_position_grid(maps, new_grid, "bicubic", interpolate_offset).flatten(2).transpose(1, 2)


def _create_resized_vit(name: str, size: int, patch_size: int) -> nn.Module:
    """Create a timm ViT whose position embeddings are for images of `size` pixels a side."""
    if size % patch_size:
        raise UsageError(f"--position-size {size} is not a multiple of the patch size of timm:{name} ({patch_size} "
                         "pixels)", f"Use --position-size {size - size % patch_size or patch_size}")
    return create_timm_backbone(name, img_size=size)


def _is_supported_vit(model: Any) -> bool:
    """Return whether this is a plain ViT with a class token, position embeddings and attention that can be recorded."""
    from timm.models.vision_transformer import VisionTransformer

    return (isinstance(model, VisionTransformer) and model.cls_token is not None and model.pos_embed is not None
            and all(hasattr(getattr(block, "attn", None), "fused_attn") and hasattr(block.attn, "attn_drop")
                    for block in model.blocks))


def _rename_released_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the released MCTformer's weights: join its two position tables and rename its patch classifier."""
    state = dict(state)
    if "pos_embed_cls" in state and "pos_embed_pat" in state:
        state["pos_embed"] = torch.cat([state.pop("pos_embed_cls"), state.pop("pos_embed_pat")], dim=1)
    if state.get("head.weight", torch.zeros(0)).ndim == 4:
        state["patch_head.weight"], state["patch_head.bias"] = state.pop("head.weight"), state.pop("head.bias")
    return state
