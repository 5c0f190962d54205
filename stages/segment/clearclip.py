"""ClearCLIP: patches attend to patches with a similar query; the last block has no residual connection and no MLP.

Lan et al., "ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference" (ECCV 2024).
"""

from __future__ import annotations

from torch import Tensor

from stages.kernels.dense_last_block import AttentionHeads


def compute_context(heads: AttentionHeads) -> Tensor:
    """Return the context (B, h, N, d): values weighted by softmax(q q^T), including the class token."""
    return heads.compute_similarity(heads.query, heads.query).softmax(dim=-1) @ heads.value
