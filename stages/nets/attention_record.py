"""Records the attention of timm's transformer blocks, with as little memory as the maps of all layers need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stages.kernels.attention import attend, has_many_scores
from stages.nets.precision import promote_to_fp32


class AttentionRecord:
    """The attention maps of a number of layers, in their order.

    Without gradients they are written to one tensor as they come: of 3,073 tokens and 12 layers, stacking them
    afterwards would take 450 MB more.
    """

    def __init__(self, num_layers: int) -> None:
        self._num_layers, self._num_added = num_layers, 0
        self._maps: list[Tensor] = []
        self._stacked: Tensor | None = None

    def add(self, attention: Tensor) -> None:
        """Add the map of the next layer."""
        if attention.requires_grad:
            self._maps.append(attention)
            return
        if self._stacked is None:
            self._stacked = attention.new_empty(self._num_layers, *attention.shape)
        self._stacked[self._num_added] = attention
        self._num_added += 1

    def stack(self) -> Tensor:
        """Return the maps of all layers, (L, ...)."""
        return torch.stack(self._maps) if self._stacked is None else self._stacked


def can_attend_by_heads(module: Any) -> bool:
    """Return whether `attend_by_heads` computes what timm's attention `module` does."""
    from timm.models.vision_transformer import Attention

    return type(module) is Attention and getattr(module, "gate", None) is None


def attend_by_heads(module: Any, record: Callable[[Tensor], None], tokens: Tensor, **options: Any) -> Tensor:
    """Return the output of timm's unfused attention `module` for tokens (B, T, D), as its own forward does.

    The attention of many tokens is computed head by head, if no gradient is needed, and passed to `record` as the mean
    (B, T, T) over the heads; otherwise a hook on the module's dropout sees it.
    """
    is_default = not any(value is not None and value is not False for value in options.values())
    if torch.is_grad_enabled() or not is_default or not has_many_scores(len(tokens), module.num_heads, tokens.shape[1]):
        return type(module).forward(module, tokens, **options)
    qkv = module.qkv(tokens).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    context, weight_sums = attend(module.q_norm(query) * module.scale, module.k_norm(key), value)
    record(promote_to_fp32(weight_sums).div_(module.num_heads))
    joined = context.transpose(1, 2).flatten(2)
    return module.proj_drop(module.proj(module.norm(joined) if hasattr(module, "norm") else joined))
