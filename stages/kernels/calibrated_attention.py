"""Attention between tokens that are alike, for patch embeddings that describe their own position.

The attention of CLIP's last blocks gathers what its class token needs. ExCEL (CVPR 2025) lets a second stream of tokens
run beside the ordinary one: in each of the last blocks it receives the values of the ordinary stream, averaged by how
similar the queries, the keys and the values of two tokens are, and skips the MLP.

Shapes: B images, h heads, T = 1 + N tokens (class token first), d channels of a head, D channels, E embedding
dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.vit_last_block import LastBlockRun, LastBlockWeights


def compute_calibrated_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the calibrated attention (B, T, T) of queries, keys and values (B, h, T, d), summed over the heads.

    It is the mean of softmax(q q^T), softmax(k k^T) and softmax(v v^T), each with the scale d^-1/2 of the attention,
    so that its rows sum to h. At least float32.
    """
    batch_size, num_heads, num_tokens, width = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    total = torch.zeros(batch_size, num_tokens, num_tokens, dtype=dtype, device=query.device)
    # Head by head the scores of an image fit the cache, and a batch of many heads needs no memory for all of them.
    for vectors in (query, key, value):
        scaled = vectors * width**-0.5
        for head in range(num_heads):
            scores = scaled[:, head] @ vectors[:, head].transpose(-1, -2)
            total += scores.to(dtype).softmax(-1)
    return total.div_(3)


def attend_calibrated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the values of all heads (B, T, D), averaged by the calibrated attention, which all heads share."""
    attention = compute_calibrated_attention(query, key, value)
    return attention.to(value.dtype) @ value.transpose(1, 2).flatten(2)


def embed_calibrated_tokens(weights: LastBlockWeights, run: LastBlockRun, stream: Tensor) -> Tensor:
    """Return the embeddings (B, T, E), not normalised, of the calibrated `stream` (B, T, D) before the last block.

    `run` is the ordinary stream's last block, pooled at the class token, whose embedding is the one returned for it.
    """
    context = attend_calibrated(run.query, run.key, run.value)[:, 1:]
    patches = stream[:, 1:] + F.linear(context, *weights.out_proj)
    embedded = F.layer_norm(patches, patches.shape[-1:], *weights.final_norm) @ weights.projection
    return torch.cat([run.embedding[:, None], embedded], dim=1)
