"""NACLIP: patches attend to those with a like key that lie near.

Hajimiri et al., "Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation" (WACV 2025).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from stages.kernels.dense_tail import Heads, neighbourhood


def context(heads: Heads, deviation: float) -> Tensor:
    """Return (B, h, N, d): values weighed by softmax(k k^T + omega), omega a Gaussian of the distance in patches.

    The class token is among them and is near to none; a `deviation` of 0 leaves omega out.
    """
    scores = heads.similarity(heads.key, heads.key)
    if deviation:
        scores = scores + F.pad(neighbourhood(heads.grid, deviation), (1, 0)).to(scores.device)
    return scores.softmax(dim=-1) @ heads.value
