"""Compute the losses of TCL and CoDe, each a scalar; the methods weight and add them.

Cha et al., TCL (CVPR 2023); Wu, CoDe (thesis, 2024), chapter 3. Every function keeps the dtype of its tensors.

Shapes: B images, N texts, J nouns of a caption, L tokens, D channels of the embedding, (h, w) map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.nets.image_segmenter import scale_to_unit_length

_MAX_SCALE = 100.0
_EPSILON = 1e-6
IGNORE_INDEX = -1


def symmetric_info_nce(cosines: Tensor, log_scale: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the symmetric InfoNCE loss of cosines (N, N), pairs on the diagonal: equation 3.7.

    The scale is exp(`log_scale`), at most 100. `valid` (N,) says which pairs exist; the others are ignored.
    """
    logits = cosines * log_scale.exp().clamp(max=_MAX_SCALE)
    target = torch.arange(len(logits), device=logits.device)
    if valid is not None:
        logits = logits[valid][:, valid]
        target = target[:len(logits)]
    if not len(logits):
        return cosines.sum() * 0
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sample_binary_masks(logits: Tensor, uniform: Tensor) -> Tensor:
    """Sample masks in {0, 1} from logits (..., h, w) with the noise log(u / (1 - u)), u being `uniform` in (0, 1).

    It is a Gumbel-sigmoid at temperature 1 and threshold 0.5, with the gradient of the sigmoid (TCL).
    """
    soft = (logits + torch.log(uniform) - torch.log1p(-uniform)).sigmoid()
    return (soft > 0.5).to(soft.dtype) - soft.detach() + soft


def pool_under_masks(dense: Tensor, masks: Tensor) -> Tensor:
    """Return (B, N, D): the mean of `dense` (B, D, h, w) weighted by each of the soft masks (B, N, h, w)."""
    return torch.einsum("bdhw,bnhw->bnd", dense, masks) / (masks.sum((-2, -1)) + _EPSILON)[..., None]


def pooled_cosines(dense: Tensor, masks: Tensor, texts: Tensor) -> Tensor:
    """Return (B, N): the cosine of each text (N, D) with the mean of `dense` under the mask of this text (TCL_f)."""
    pooled = scale_to_unit_length(pool_under_masks(dense, masks), -1)
    return torch.einsum("bnd,nd->bn", pooled, scale_to_unit_length(texts, -1))


def total_variation(maps: Tensor) -> Tensor:
    """Return the mean absolute difference of horizontal neighbours plus that of vertical ones, of maps (..., h, w).

    A direction in which the map is one cell wide adds 0.
    """
    differences = maps[..., 1:] - maps[..., :-1], maps[..., 1:, :] - maps[..., :-1, :]
    horizontal, vertical = (difference.abs().mean() if difference.numel() else maps.sum() * 0
                            for difference in differences)
    return horizontal + vertical


def area_loss(mean: Tensor, prior: float) -> Tensor:
    """Return the absolute difference of the masks' mean area (over the batch, not per image) from the prior."""
    return (mean - prior).abs()


def knowledge_loss(nouns: Tensor, guides: Tensor, form: str, valid: Tensor | None = None) -> Tensor:
    """Return L_kg of unit vectors (..., D): the squared distance (equation 3.1), or 1 - cosine, which is half of it.

    The code of KgCoOp and that of CoDe use the cosine. `valid` (...) says which nouns exist.
    """
    cosine = (nouns * guides).sum(-1)
    distances = (nouns - guides).square().sum(-1) if form == "squared" else 1 - cosine
    if valid is None:
        return distances.mean()
    return (distances * valid).sum() / valid.sum().clamp(min=1)


def word_loss(logits: Tensor, labels: Tensor, none_weight: float = 1.0) -> Tensor:
    """Return the cross entropy of word logits (B, J + 1, L) for labels (B, L), 0 no noun, -1 ignored: L_seg^t.

    It is the mean weighted per word; label 0 has `none_weight`. It is 0 when all words are ignored or have weight 0.
    """
    if not ((labels > 0) | ((labels == 0) & (none_weight > 0))).any():
        return logits[:, 0].sum() * 0
    weights = logits.new_ones(logits.shape[1])
    weights[0] = none_weight
    return F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX)
