"""NACLIP: patches attend to nearby patches with a similar key.

Hajimiri et al., "Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation" (WACV 2025).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_last_block import AttentionHeads, compute_gaussian_bias


def compute_context(heads: AttentionHeads, deviation: float) -> Tensor:
    """Return the context (B, h, N, d): values weighted by softmax(k k^T + omega).

    Omega is a Gaussian of the distance in patches; a `deviation` of 0 leaves it out. The class token is included, with
    omega 0 to every patch.
    """
    scores = heads.compute_similarity(heads.key, heads.key)
    if deviation:
        scores = scores + F.pad(compute_gaussian_bias(heads.grid, deviation), (1, 0)).to(scores.device)
    return scores.softmax(dim=-1) @ heads.value
