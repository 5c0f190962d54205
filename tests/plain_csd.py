"""The loss of CSD on an MCTformer from images to numbers, cell by cell, from the network written out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from plain_mctformer import fused_maps, refined_maps, see

PATCH = 16


class Terms(NamedTuple):
    """The three terms of the loss before their weights."""

    classification: Tensor
    foreground: Tensor
    background: Tensor


def csd_terms(state: Mapping[str, Tensor], version: str, batch: Mapping[str, Tensor], heads: int, *,
              maps: str = "refined", layers: int = 3, constant: float = 0.1, share: bool = False,
              offset: float = 0.0) -> Terms:
    """Return the terms of a batch whose samples are all pairs: sums over cells, means over pairs.

    With `share` the dummy score is the `constant` times the largest saliency of the single image.
    """
    def maps_of(name: str) -> Tensor:
        seen = see(state, version, batch[name], heads, offset=offset)
        if maps == "patch-logits":
            return seen.patch
        fused = fused_maps(seen, version, layers, detach_patch=True)
        return refined_maps(seen, fused) if maps == "refined" else fused

    seen = see(state, version, batch["image"], heads, offset=offset)
    labels = batch["labels"].double()
    classification = binary_cross_entropy_with_logits(seen.class_logits, labels)
    if seen.patch_logits is not None:
        classification = classification + binary_cross_entropy_with_logits(seen.patch_logits, labels)
    single, objects, backgrounds = (maps_of(name) for name in ("single", "pasted_object", "pasted_background"))
    single = single.detach()
    foreground = background = torch.zeros((), dtype=torch.float64)
    for pair in range(len(single)):
        dummy = constant * (single[pair].clamp(min=0).sum(0).max() if share else 1.0)
        for row in range(single.shape[2]):
            for column in range(single.shape[3]):
                cell = (pair, slice(None), row, column)
                if _is_inside(batch["object"][pair], row, column):
                    foreground = foreground + _divergence(single[cell], objects[cell])
                if _is_inside(batch["surroundings"][pair], row, column):
                    background = background + _divergence(_with_dummy(single[cell], dummy),
                                                          _with_dummy(backgrounds[cell], dummy))
    return Terms(classification, foreground / len(single), background / len(single))


def _is_inside(mask: Tensor, row: int, column: int) -> bool:
    cell = mask[PATCH * row:PATCH * (row + 1), PATCH * column:PATCH * (column + 1)]
    return cell.shape == (PATCH, PATCH) and bool((cell > 0).all())


def _with_dummy(scores: Tensor, dummy: Tensor | float) -> Tensor:
    return torch.stack([scores.clamp(min=0).sum(), torch.as_tensor(dummy, dtype=scores.dtype)])


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """Return KL of the softmax of scores `first` from that of `second`."""
    p, q = first.exp() / first.exp().sum(), second.exp() / second.exp().sum()
    return (p * (p / q).log()).sum()
