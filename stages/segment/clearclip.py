"""ClearCLIP: patches attend to those with a like query, and the residual path and the MLP of the block go.

Lan et al., "ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference" (ECCV 2024).
"""

from __future__ import annotations

from torch import Tensor

from stages.kernels.dense_tail import Heads


def context(heads: Heads) -> Tensor:
    """Return (B, h, N, d): values weighed by softmax(q q^T), the class token among them."""
    return heads.similarity(heads.query, heads.query).softmax(dim=-1) @ heads.value
