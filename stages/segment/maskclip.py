"""MaskCLIP: every patch sees itself alone.

Zhou et al., "Extract Free Dense Labels from CLIP" (ECCV 2022). The residual path and the MLP of the block
stay, as in TCL's use of it (Cha et al., CVPR 2023).
"""

from __future__ import annotations

from torch import Tensor

from stages.kernels.dense_tail import Heads


def context(heads: Heads) -> Tensor:
    """Return the values (B, h, N, d) of the patches: the attention is the identity."""
    return heads.value[:, :, 1:]
