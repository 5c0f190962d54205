"""A vision transformer of timm with one class token for each class, whose attention can be watched.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (MCTformer, CVPR 2022),
section 3.1. Weights keep timm's names; `cls_token` is (1, C, D) and `pos_embed` (1, C + N, D), classes first.

The tokens are those that the last block returns: as in the released code, the final LayerNorm of the ViT is left out.
The mean over the channels of a normalised token, which is the class's logit in MCTformer, would be the mean of the
norm's bias plus a term bounded by the spread of its gains: 0 where these are equal, so that nothing could be learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.errors import BadData, UsageError
from stages.nets.backbone import only_stride
from stages.nets.positions import resized_cells
from stages.nets.precision import at_least_fp32
from stages.nets.registry import resolve
from stages.nets.timm_backbone import TimmBackbone, create_model
from stages.nets.weight_names import bare

EXAMPLE = "timm:deit_small_patch16_224"
LARGEST_POSITION_SIZE = 4096
NORMS = ("norm", "fc_norm")


class TokenRun(NamedTuple):
    """Tokens (B, T, D) as the last layer returns them, and those of the classes after each layer (L, B, C, D).

    The tokens are those of the C classes, registers where there are some, and the N patches row by row.
    """

    tokens: Tensor
    class_tokens: Tensor


class ClassTokenBackbone(TimmBackbone):
    """A timm ViT with `n_classes` class tokens; its map (B, D, h, w) is that of the patch tokens of the last block.

    Each patch of images of `position_size` pixels a side (0: the network's own size) has a position of its own to
    learn; for other images they are resized. Raises UsageError for a network that is no ViT with a class token and
    learnt positions, and for a size that is no multiple of its patch.
    """

    undecayed = ("cls_token", "pos_embed", "reg_token")

    def __init__(self, name: str, n_classes: int, *, stride: int | None = None, drop_path: float = 0.0,
                 position_size: int = 0) -> None:
        source, short = resolve(name)
        if source != "timm":
            raise UsageError(f"--net {name} is no vision transformer of timm", f"give for example {EXAMPLE}")
        if not 0 <= position_size <= LARGEST_POSITION_SIZE:
            raise UsageError(f"--position-size {position_size} is out of range", f"give 0 to {LARGEST_POSITION_SIZE}")
        super().__init__(short)
        only_stride(self.name, stride, self.stride)
        model: Any = self.model
        if not _fits(model):
            raise UsageError(f"--net {self.name} is no plain vision transformer with a class token and positions",
                             f"give for example {EXAMPLE}")
        if position_size:
            self._take(_sized(short, position_size, self.stride))
            model = self.model
        self.n_classes, self.position_size = n_classes, position_size
        self.exact_positions, self.released_offset = True, 0.1
        self.grid = (int(model.patch_embed.grid_size[0]), int(model.patch_embed.grid_size[1]))
        self._replace_tokens(model)
        self._remove_final_norm(model)
        self._drop_paths(model.blocks, drop_path)
        # Tokens of classes start anew: they learn also where the stem is frozen.
        self.block_prefixes = {block: tuple(prefix for prefix in prefixes if prefix != "model.cls_token")
                               for block, prefixes in self.block_prefixes.items()}

    def _replace_tokens(self, model: Any) -> None:
        if hasattr(model, "dist_token"):
            del model.dist_token
        width, cells = model.embed_dim, self.grid[0] * self.grid[1]
        model.cls_token = nn.Parameter(torch.empty(1, self.n_classes, width))
        model.pos_embed = nn.Parameter(torch.empty(1, self.n_classes + cells, width))
        for fresh in (model.cls_token, model.pos_embed):
            nn.init.trunc_normal_(fresh, std=0.02)
        model.num_prefix_tokens = self.n_classes + model.num_reg_tokens

    def _remove_final_norm(self, model: Any) -> None:
        """Take out the LayerNorm behind the blocks, which in a ViT made for average pooling stands behind that."""
        for name in NORMS:
            setattr(model, name, nn.Identity())
            self.block_prefixes.pop(name, None)
        self.blocks = tuple(block for block in self.blocks if block not in NORMS)

    @staticmethod
    def _drop_paths(blocks: nn.Sequential, rate: float) -> None:
        """Let residual branches be dropped with a probability that rises to `rate` (Huang et al., 2016; DeiT)."""
        from timm.layers import DropPath

        for place, block in enumerate(blocks):
            if rate and place:
                share = rate * place / (len(blocks) - 1)
                block.drop_path1, block.drop_path2 = DropPath(share), DropPath(share)

    def run(self, images: Tensor) -> TokenRun:
        """Return the tokens of images (B, 3, H, W)."""
        model: Any = self.model
        tokens = model.norm_pre(self._embedded(images))
        after = []
        for block in model.blocks:
            tokens = block(tokens)
            after.append(tokens[:, :self.n_classes])
        return TokenRun(tokens, torch.stack(after))

    def forward(self, images: Tensor) -> Tensor:
        """Return the map (B, D, h, w) of the patch tokens of the last block."""
        return self.as_map(self.run(images).tokens, images)

    def as_map(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Return the patches among tokens (B, T, D) of `images` as a map (B, D, h, w)."""
        return self._as_map(tokens, images)

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Return (h, w), the patches of images (B, 3, H, W)."""
        return self._grid(images)

    def _embedded(self, images: Tensor) -> Tensor:
        model: Any = self.model
        patches = model.patch_embed(self._padded(images)).flatten(1, 2)
        positions = self.positions(self._grid(images))
        classes = (model.cls_token + positions[:, :self.n_classes]).expand(len(images), -1, -1)
        registers = [] if model.reg_token is None else [model.reg_token.expand(len(images), -1, -1)]
        return model.pos_drop(torch.cat([classes, *registers, patches + positions[:, self.n_classes:]], dim=1))

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions (1, C + N, D) for a grid of (h, w) patches, those of the patches resized bicubically.

        The released code of V1 and V2 scales by (h + 0.1) / h0, against rounding, and so samples the positions up to
        0.1 of a patch beside their centres. With `exact_positions` False this adds `released_offset` instead of 0.1.
        """
        known = self.model.pos_embed
        if grid == self.grid:
            return known
        classes, patches = known[:, :self.n_classes], known[:, self.n_classes:]
        offset = 0.0 if self.exact_positions else self.released_offset
        resized = resized_positions(patches, self.grid, grid, beside=offset)
        return torch.cat([classes, resized], dim=1)

    @contextmanager
    def watched(self, layers: int | None = None, *, heads: bool = False) -> Iterator[list[Tensor]]:
        """While entered, every pass appends the attention of the last `layers` layers (None: all), in their order.

        Each is (B, T, T) in float32 at least, the mean over the heads, or with `heads` (B, heads, T, T); rows sum to 1.
        """
        found: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            attention = at_least_fp32(inputs[0])
            found.append(attention if heads else attention.mean(1))

        blocks = list(self.model.blocks)
        watched = [block.attn for block in (blocks if layers is None else blocks[len(blocks) - layers:])]
        fused = [attention.fused_attn for attention in watched]
        # Only unfused attention has a softmax to be seen, on its way into the dropout.
        handles = [attention.attn_drop.register_forward_pre_hook(keep) for attention in watched]
        for attention in watched:
            attention.fused_attn = False
        try:
            yield found
        finally:
            for attention, before, handle in zip(watched, fused, handles, strict=True):
                attention.fused_attn = before
                handle.remove()

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.model.blocks)

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a ViT with its class token and that token's position repeated for every class.

        Positions of another square grid are resized; a distillation token is left out, positions of registers are
        added to these. A state of the released MCTformer is put under our names. Others are returned as they are.
        Raises BadData for class tokens whose patches have positions on another grid: resized, they would not be those
        that the tokens were trained with.
        """
        state = _released({bare(name): tensor for name, tensor in state.items()})
        token, positions = state.get("cls_token"), state.get("pos_embed")
        if token is None or positions is None or token.ndim != 3 or positions.ndim != 3:
            return state
        if token.shape[1] != 1:
            self._check_positions(token, positions)
            return state
        prefix, patches = self._split(positions)
        own = prefix[:, :1] if prefix.shape[1] else torch.zeros_like(token)
        registers = state.get("reg_token")
        if registers is not None and prefix.shape[1] == 1 + registers.shape[1]:
            state["reg_token"] = registers + prefix[:, 1:]
        state["cls_token"] = token.repeat(1, self.n_classes, 1)
        state["pos_embed"] = torch.cat([own.repeat(1, self.n_classes, 1), patches], dim=1)
        return state

    def _check_positions(self, token: Tensor, positions: Tensor) -> None:
        """Raise BadData when the weights of a net with these class tokens have positions on another square grid."""
        count, cells = positions.shape[1] - token.shape[1], self.grid[0] * self.grid[1]
        side = isqrt(max(count, 0))
        if token.shape[1] == self.n_classes and count != cells and side * side == count:
            raise BadData(f"the weights have positions for {side} x {side} patches, the network for "
                          f"{self.grid[0]} x {self.grid[1]}", f"give --position-size {side * self.stride}")

    def _split(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return a ViT's positions before those of its patches, and these on our grid."""
        count, cells = positions.shape[1], self.grid[0] * self.grid[1]
        side = isqrt(count)
        if 0 <= count - cells <= 1 + max(1, self.model.num_reg_tokens):
            return positions[:, :count - cells], positions[:, count - cells:]
        patches = resized_positions(positions[:, count - side * side:].float(), (side, side), self.grid)
        return positions[:, :count - side * side], patches


def resized_positions(patches: Tensor, old: tuple[int, int], new: tuple[int, int], *, beside: float = 0.0) -> Tensor:
    """Return positions (1, h * w, D) of a grid `new` from those of the grid `old`; `beside` as in `resized_cells`."""
    maps = patches.transpose(1, 2).unflatten(-1, old)
    return resized_cells(maps, new, "bicubic", beside).flatten(2).transpose(1, 2)


def _sized(name: str, size: int, patch: int) -> nn.Module:
    """Return a timm ViT whose table of positions is that of images of `size` pixels a side."""
    if size % patch:
        raise UsageError(f"--position-size {size} is no multiple of the patches of timm:{name}, {patch} pixels",
                         f"give {size - size % patch or patch}")
    return create_model(name, img_size=size)


def _fits(model: Any) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return (isinstance(model, VisionTransformer) and model.cls_token is not None and model.pos_embed is not None
            and all(hasattr(getattr(block, "attn", None), "fused_attn") and hasattr(block.attn, "attn_drop")
                    for block in model.blocks))


def _released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the released MCTformer's two tables of positions, and its patch classifier, as ours."""
    state = dict(state)
    if "pos_embed_cls" in state and "pos_embed_pat" in state:
        state["pos_embed"] = torch.cat([state.pop("pos_embed_cls"), state.pop("pos_embed_pat")], dim=1)
    if state.get("head.weight", torch.zeros(0)).ndim == 4:
        state["patch_head.weight"], state["patch_head.bias"] = state.pop("head.weight"), state.pop("head.bias")
    return state
