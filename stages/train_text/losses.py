"""The losses of TCL and CoDe, each a scalar of its own; the methods weigh and add them.

Cha et al., TCL (CVPR 2023); Wu, CoDe (thesis, 2024), chapter 3. Every function keeps the type of its tensors.

Shapes: B images, N texts, J nouns of a caption, L tokens, D channels of the embedding, (h, w) map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.nets.image_segmenter import unit

_LARGEST_SCALE = 100.0
_EPSILON = 1e-6
IGNORE = -1


def contrast(cosines: Tensor, log_scale: Tensor, there: Tensor | None = None) -> Tensor:
    """Return the symmetric InfoNCE loss of cosines (N, N), pairs on the diagonal: equation 3.7.

    The scale is exp(`log_scale`), 100 at most. `there` (N,) says which pairs exist; the others are in no sum.
    """
    logits = cosines * log_scale.exp().clamp(max=_LARGEST_SCALE)
    target = torch.arange(len(logits), device=logits.device)
    if there is not None:
        logits = logits[there][:, there]
        target = target[:len(logits)]
    if not len(logits):
        return cosines.sum() * 0
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def binary_masks(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return masks in {0, 1} of logits (..., h, w), drawn with noise that is log(u / (1 - u)) of `uniform` in (0, 1).

    A Gumbel-sigmoid at temperature 1 and threshold 0.5; its gradient is that of the sigmoid (TCL).
    """
    soft = (logits + torch.log(uniform) - torch.log1p(-uniform)).sigmoid()
    return (soft > 0.5).to(soft.dtype) - soft.detach() + soft


def pooled(dense: Tensor, masks: Tensor) -> Tensor:
    """Return (B, N, D): the mean of `dense` (B, D, h, w) under each of the soft masks (B, N, h, w)."""
    return torch.einsum("bdhw,bnhw->bnd", dense, masks) / (masks.sum((-2, -1)) + _EPSILON)[..., None]


def pooled_cosines(dense: Tensor, masks: Tensor, texts: Tensor) -> Tensor:
    """Return (B, N): the cosine of each text (N, D) with the image's mean under this text's mask (TCL_f)."""
    return torch.einsum("bnd,nd->bn", unit(pooled(dense, masks), -1), unit(texts, -1))


def total_variation(maps: Tensor) -> Tensor:
    """Return the mean |difference| of neighbours in a row plus that in a column, of maps (..., h, w).

    0 for a direction in which a map is one cell wide.
    """
    steps = maps[..., 1:] - maps[..., :-1], maps[..., 1:, :] - maps[..., :-1, :]
    across, down = (step.abs().mean() if step.numel() else maps.sum() * 0 for step in steps)
    return across + down


def area(mean: Tensor, prior: float) -> Tensor:
    """Return how far the mean of the masks (over the batch, not each image) is from the prior."""
    return (mean - prior).abs()


def knowledge(nouns: Tensor, guides: Tensor, form: str, there: Tensor | None = None) -> Tensor:
    """Return L_kg of unit vectors (..., D): squared distance (equation 3.1), or 1 - cosine, half of that.

    KgCoOp's code and CoDe's have the cosine. `there` (...) says which nouns exist.
    """
    cosine = (nouns * guides).sum(-1)
    each = (nouns - guides).square().sum(-1) if form == "squared" else 1 - cosine
    if there is None:
        return each.mean()
    return (each * there).sum() / there.sum().clamp(min=1)


def word_loss(logits: Tensor, labels: Tensor, none_weight: float = 1.0) -> Tensor:
    """Return the cross entropy of word logits (B, J + 1, L) for labels (B, L), 0 none, -1 ignored: L_seg^t.

    The mean is over the weights of the words; label 0 has `none_weight`. 0 where all words are ignored or weigh 0.
    """
    if not ((labels > 0) | ((labels == 0) & (none_weight > 0))).any():
        return logits[:, 0].sum() * 0
    weights = logits.new_ones(logits.shape[1])
    weights[0] = none_weight
    return F.cross_entropy(logits, labels, weights, ignore_index=IGNORE)
