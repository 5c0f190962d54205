"""Grad-CAM at any layer of a classifier: Selvaraju et al. (ICCV 2017), eq. 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.finite import infinite_to_nan
from stages.nets.layer_maps import LayerMapExtractor, compute_class_gradients
from stages.nets.library_classifier import OutputTap, run_net


def compute_cams(layer_maps: LayerMapExtractor, views: Sequence[Tensor], *, flip: bool,
                 has_softmax: bool = False,
                 choose_classes: Callable[[int, np.ndarray], np.ndarray],
                 ) -> list[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Compute (class_ids (K,), maps (K, h, w) in [0, 1], scores (C,) in [0, 1]) of B images at a layer.

    `views` has one tensor (B, 3, H_s, W_s) per scale; their maps and those of the mirrored images are summed on the
    grid of the first one. The scores are the sigmoid of the logits or, with `has_softmax`, their softmax.
    `choose_classes(position, scores)` returns an image's class ids. Each view takes one forward pass, and one backward
    pass for all classes from the logits to the layer. Raises UsageError for a layer whose patches get no gradient, and
    for an image size that the network does not support.
    """
    ids: list[np.ndarray] = []
    total: Tensor | None = None
    scores = []
    for view in views:
        for is_mirrored in (False, True) if flip else (False,):
            with OutputTap(layer_maps.layer) as tap, torch.enable_grad():
                logits = run_net(layer_maps.net, view.flip(-1) if is_mirrored else view,
                                 "Resize the images to {size} x {size}, or use a network for images of any size")
            finite_logits = infinite_to_nan(logits.detach().float())
            scores.append(finite_logits.softmax(-1) if has_softmax else finite_logits.sigmoid())
            ids = ids or [choose_classes(position, row.cpu().numpy()) for position, row in enumerate(scores[0])]
            maps = _compute_view_maps(logits, tap.output, layer_maps, ids, (view.shape[-2], view.shape[-1]))
            maps = maps.flip(-1) if is_mirrored else maps
            total = maps if total is None else total + _resize_to(maps, total.shape[-2:])
    assert total is not None  # there is at least one scale
    maximum = total.amax((-2, -1), keepdim=True) if total.shape[1] else total
    cams = total / torch.where(maximum > 0, maximum, torch.ones_like(maximum))
    means = torch.stack(scores).mean(0).cpu().numpy()
    return [(class_ids, cams[position, :len(class_ids)], means[position]) for position, class_ids in enumerate(ids)]


def _compute_view_maps(logits: Tensor, output: Tensor, layer_maps: LayerMapExtractor, ids: Sequence[np.ndarray],
                       size: tuple[int, int]) -> Tensor:
    """Return the ReLU of the weighted maps (B, K, h, w) of each image's classes; rows beyond its own K are 0."""
    max_classes = max(map(len, ids))
    features = infinite_to_nan(layer_maps(output.detach(), size))
    if not max_classes:
        return features.new_zeros(len(ids), 0, *features.shape[-2:])
    cotangents = torch.zeros(max_classes, *logits.shape, dtype=logits.dtype, device=logits.device)
    for position, class_ids in enumerate(ids):
        cotangents[torch.arange(len(class_ids)), position, torch.as_tensor(class_ids.astype(np.int64) - 1)] = 1
    gradients = compute_class_gradients(logits, output, cotangents)
    if gradients is not None:
        gradients = torch.stack([layer_maps(class_gradient, size) for class_gradient in gradients], dim=1)
    if gradients is None or not bool(gradients.any()):
        layer_maps.check_gradients(size)
        return features.new_zeros(len(ids), max_classes, *features.shape[-2:], dtype=torch.float32)
    weights = gradients.mean((-2, -1))
    return torch.relu(torch.einsum("bkd,bdhw->bkhw", weights.float(), features.float()))


def _resize_to(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
