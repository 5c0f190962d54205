"""Plain Grad-CAM at any layer of a classifier: Selvaraju et al. (ICCV 2017), eq. 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.plain_classifier import Tap, as_maps


def batch_maps(net: nn.Module, layer: nn.Module, views: Sequence[Tensor], *, flip: bool,
               chosen: Callable[[int, np.ndarray], np.ndarray]) -> list[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Return (class_ids (K,), maps (K, h, w) in [0, 1], scores (C,) in [0, 1]) of B images.

    `views` holds one tensor (B, 3, H_s, W_s) per scale; their maps and those of the mirror images are summed on the
    grid of the first. `chosen(position, scores)` gives an image's class ids. One forward pass a view, and one
    backward sweep for all classes, from the logits to the layer and no further.
    """
    ids: list[np.ndarray] = []
    total: Tensor | None = None
    scores = []
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            with Tap(layer) as tap, torch.enable_grad():
                logits = net(view.flip(-1) if mirrored else view)
            scores.append(logits.detach().float().sigmoid())
            ids = ids or [chosen(place, one.cpu().numpy()) for place, one in enumerate(scores[0])]
            maps = _class_maps(logits, tap.output, net, ids, (view.shape[-2], view.shape[-1]))
            maps = maps.flip(-1) if mirrored else maps
            total = maps if total is None else total + _resized(maps, total)
    assert total is not None  # there is a scale
    peak = total.amax((-2, -1), keepdim=True) if total.shape[1] else total
    unit = total / torch.where(peak > 0, peak, torch.ones_like(peak))
    means = torch.stack(scores).mean(0).cpu().numpy()
    return [(own, unit[place, :len(own)], means[place]) for place, own in enumerate(ids)]


def _class_maps(logits: Tensor, output: Tensor, net: nn.Module, ids: Sequence[np.ndarray],
                size: tuple[int, int]) -> Tensor:
    """Return ReLU of the weighted maps (B, K, h, w) of each image's classes; rows beyond its K are 0."""
    most = max(map(len, ids))
    features = as_maps(output.detach(), net, size)
    if not most:
        return features.new_zeros(len(ids), 0, *features.shape[-2:])
    asked = torch.zeros(most, *logits.shape, dtype=logits.dtype, device=logits.device)
    for image, own in enumerate(ids):
        asked[torch.arange(len(own)), image, torch.as_tensor(own.astype(np.int64) - 1)] = 1
    (each,) = torch.autograd.grad(logits, output, asked, is_grads_batched=True)
    weights = torch.stack([as_maps(one, net, size).mean((-2, -1)) for one in each], dim=1)
    return torch.relu(torch.einsum("bkd,bdhw->bkhw", weights.float(), features.float()))


def _resized(maps: Tensor, to: Tensor) -> Tensor:
    if maps.shape[-2:] == to.shape[-2:]:
        return maps
    return F.interpolate(maps, to.shape[-2:], mode="bilinear", align_corners=False)
