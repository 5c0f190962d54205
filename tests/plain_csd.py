"""A plain version of the loss of CSD on an MCTformer, computed from images cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from plain_mctformer import compute_outputs, fuse_maps, refine_maps

PATCH = 16


class LossTerms(NamedTuple):
    """The three terms of the loss, not weighted yet."""

    classification: Tensor
    foreground: Tensor
    background: Tensor


def compute_csd_terms(state: Mapping[str, Tensor], version: str, batch: Mapping[str, Tensor], heads: int, *,
                      maps: str = "refined", layers: int = 3, constant: float = 0.1, share: bool = False,
                      offset: float = 0.0) -> LossTerms:
    """Compute the terms of a batch in which every sample is a pair: sums over cells, means over pairs.

    With `share` the dummy score is the `constant` times the largest saliency of the single image.
    """
    def compute_maps(name: str) -> Tensor:
        outputs = compute_outputs(state, version, batch[name], heads, offset=offset)
        if maps == "patch-logits":
            return outputs.patch
        fused = fuse_maps(outputs, version, layers, detach_patch=True)
        return refine_maps(outputs, fused) if maps == "refined" else fused

    outputs = compute_outputs(state, version, batch["image"], heads, offset=offset)
    labels = batch["labels"].double()
    classification = binary_cross_entropy_with_logits(outputs.class_logits, labels)
    if outputs.patch_logits is not None:
        classification = classification + binary_cross_entropy_with_logits(outputs.patch_logits, labels)
    single, objects, backgrounds = (compute_maps(name) for name in ("single", "pasted_object", "pasted_background"))
    single = single.detach()
    foreground = background = torch.zeros((), dtype=torch.float64)
    for pair in range(len(single)):
        dummy = constant * (single[pair].clamp(min=0).sum(0).max() if share else 1.0)
        for row in range(single.shape[2]):
            for column in range(single.shape[3]):
                cell = (pair, slice(None), row, column)
                if _is_inside(batch["object"][pair], row, column):
                    foreground = foreground + _compute_divergence(single[cell], objects[cell])
                if _is_inside(batch["surroundings"][pair], row, column):
                    background = background + _compute_divergence(_append_dummy(single[cell], dummy),
                                                          _append_dummy(backgrounds[cell], dummy))
    return LossTerms(classification, foreground / len(single), background / len(single))


def _is_inside(mask: Tensor, row: int, column: int) -> bool:
    """Return whether a cell lies inside the mask as a whole."""
    cell = mask[PATCH * row:PATCH * (row + 1), PATCH * column:PATCH * (column + 1)]
    return cell.shape == (PATCH, PATCH) and bool((cell > 0).all())


def _append_dummy(scores: Tensor, dummy: Tensor | float) -> Tensor:
    """Return the saliency, the sum of the positive scores, followed by the dummy score."""
    return torch.stack([scores.clamp(min=0).sum(), torch.as_tensor(dummy, dtype=scores.dtype)])


def _compute_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return the KL divergence of the softmax of `first` from the softmax of `second`."""
    p, q = first.exp() / first.exp().sum(), second.exp() / second.exp().sum()
    return (p * (p / q).log()).sum()
