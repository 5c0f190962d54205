"""SCLIP: patches attend to those with a like query and to those with a like key.

Wang et al., "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference" (ECCV 2024).
"""

from __future__ import annotations

from torch import Tensor

from stages.kernels.dense_tail import Heads


def context(heads: Heads) -> Tensor:
    """Return (B, h, N, d): values weighed by softmax(q q^T) + softmax(k k^T), the class token among them."""
    by_query = heads.similarity(heads.query, heads.query).softmax(dim=-1)
    by_key = heads.similarity(heads.key, heads.key).softmax(dim=-1)
    return (by_query + by_key) @ heads.value
