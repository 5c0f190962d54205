"""MaskCLIP: every patch attends only to itself.

Zhou et al., "Extract Free Dense Labels from CLIP" (ECCV 2022). The residual connection and the MLP of the
block are kept, as in TCL (Cha et al., CVPR 2023).
"""

from __future__ import annotations

from torch import Tensor

from stages.kernels.dense_last_block import AttentionHeads


def compute_context(heads: AttentionHeads) -> Tensor:
    """Return the values (B, h, N, d) of the patches: the attention is the identity."""
    return heads.value[:, :, 1:]
