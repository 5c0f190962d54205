"""Softmax attention, computed head by head where the scores of all heads together would need too much memory.

Shapes: B images, h heads, T tokens, d channels of a head. Both ways give the same weights and context, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SCORES = 1 << 26  # in float32 the scores and their softmax then take 512 MB


def has_many_scores(batch_size: int, num_heads: int, num_tokens: int) -> bool:
    """Return whether the attention of a batch should be computed head by head."""
    return batch_size * num_heads * num_tokens**2 > MAX_SCORES


def compute_attention_weights(query: Tensor, key: Tensor) -> Tensor:
    """Return softmax(query key^T), (B, h, T, T), of queries and keys (B, h, T, d); queries are already scaled."""
    batch_size, num_heads, num_tokens = query.shape[:3]
    if not has_many_scores(batch_size, num_heads, num_tokens):
        return torch.matmul(query, key.transpose(-1, -2)).softmax(dim=-1)
    weights = query.new_empty(batch_size, num_heads, num_tokens, num_tokens)
    for head in range(num_heads):
        weights[:, head] = torch.matmul(query[:, head], key[:, head].transpose(-1, -2)).softmax(dim=-1)
    return weights


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the context (B, h, T, d) of values (B, h, T, d), and the sum (B, T, T) of the weights over the heads.

    Of many heads in half precision the weights are summed in float32.
    """
    batch_size, num_heads, num_tokens = query.shape[:3]
    if not has_many_scores(batch_size, num_heads, num_tokens):
        weights = compute_attention_weights(query, key)
        return torch.matmul(weights, value), weights.sum(1)
    context = torch.empty_like(value)
    total = torch.zeros(batch_size, num_tokens, num_tokens, dtype=torch.promote_types(query.dtype, torch.float32),
                        device=query.device)
    for head in range(num_heads):
        weights = compute_attention_weights(query[:, head, None], key[:, head, None])[:, 0]
        context[:, head] = torch.matmul(weights, value[:, head])
        total += weights
    return context, total
