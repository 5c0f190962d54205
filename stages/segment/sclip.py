"""SCLIP: patches attend to patches with a similar query and to patches with a similar key.

Wang et al., "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference" (ECCV 2024).
"""

from __future__ import annotations

from torch import Tensor

from stages.kernels.dense_last_block import AttentionHeads


def compute_context(heads: AttentionHeads) -> Tensor:
    """Return the context (B, h, N, d): values weighted by softmax(q q^T) + softmax(k k^T), with the class token."""
    by_query = heads.compute_similarity(heads.query, heads.query).softmax(dim=-1)
    by_key = heads.compute_similarity(heads.key, heads.key).softmax(dim=-1)
    return (by_query + by_key) @ heads.value
