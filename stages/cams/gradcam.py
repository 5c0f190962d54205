"""Plain Grad-CAM at any layer of a classifier: Selvaraju et al. (ICCV 2017), eq. 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.kernels.finite import infinite_to_nan
from stages.nets.layer_maps import LayerMaps, gradients_at
from stages.nets.plain_classifier import Tap, run_net


def batch_maps(maps_of: LayerMaps, views: Sequence[Tensor], *, flip: bool,
               chosen: Callable[[int, np.ndarray], np.ndarray]) -> list[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Return (class_ids (K,), maps (K, h, w) in [0, 1], scores (C,) in [0, 1]) of B images at the layer of `maps_of`.

    `views` holds one tensor (B, 3, H_s, W_s) per scale; their maps and those of the mirror images are summed on the
    grid of the first. `chosen(position, scores)` gives an image's class ids. One forward pass a view, and one
    backward sweep for all classes, from the logits to the layer and no further. Raises UsageError for a layer whose
    patches have no gradient, and for a size that the network can't take.
    """
    ids: list[np.ndarray] = []
    total: Tensor | None = None
    scores = []
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            with Tap(maps_of.layer) as tap, torch.enable_grad():
                logits = run_net(maps_of.net, view.flip(-1) if mirrored else view,
                                 "resize the images to {size} x {size}, or take a network for images of any size")
            scores.append(infinite_to_nan(logits.detach().float()).sigmoid())
            ids = ids or [chosen(position, row.cpu().numpy()) for position, row in enumerate(scores[0])]
            maps = _class_maps(logits, tap.output, maps_of, ids, (view.shape[-2], view.shape[-1]))
            maps = maps.flip(-1) if mirrored else maps
            total = maps if total is None else total + _resized(maps, total)
    assert total is not None  # there is a scale
    peak = total.amax((-2, -1), keepdim=True) if total.shape[1] else total
    unit = total / torch.where(peak > 0, peak, torch.ones_like(peak))
    means = torch.stack(scores).mean(0).cpu().numpy()
    return [(own, unit[place, :len(own)], means[place]) for place, own in enumerate(ids)]


def _class_maps(logits: Tensor, output: Tensor, maps_of: LayerMaps, ids: Sequence[np.ndarray],
                size: tuple[int, int]) -> Tensor:
    """Return ReLU of the weighted maps (B, K, h, w) of each image's classes; rows beyond its K are 0."""
    most = max(map(len, ids))
    features = infinite_to_nan(maps_of(output.detach(), size))
    if not most:
        return features.new_zeros(len(ids), 0, *features.shape[-2:])
    asked = torch.zeros(most, *logits.shape, dtype=logits.dtype, device=logits.device)
    for image, own in enumerate(ids):
        asked[torch.arange(len(own)), image, torch.as_tensor(own.astype(np.int64) - 1)] = 1
    each = gradients_at(logits, output, asked)
    gradients = None if each is None else torch.stack([maps_of(of_class, size) for of_class in each], dim=1)
    if gradients is None or not bool(gradients.any()):
        maps_of.check_gradients(size)
        return features.new_zeros(len(ids), most, *features.shape[-2:], dtype=torch.float32)
    weights = gradients.mean((-2, -1))
    return torch.relu(torch.einsum("bkd,bdhw->bkhw", weights.float(), features.float()))


def _resized(maps: Tensor, to: Tensor) -> Tensor:
    if maps.shape[-2:] == to.shape[-2:]:
        return maps
    return F.interpolate(maps, to.shape[-2:], mode="bilinear", align_corners=False)
