"""The loss by which TCL learns masks of texts, in every process over the texts of all: L_seg^v of CoDe.

Cha et al., TCL (CVPR 2023), section 3.3: what a mask leaves of an image shall look like its text to CLIP, and the mean
of the map under the mask too; masks of texts that are there have a certain area, those of others none; both are smooth.

Shapes: B images of this process, J texts of an image, n = J B, N = n in each of R processes, noun-major: text j of
image b is row j B + b; E of the embedding, (h, w) map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.nets.image_segmenter import unit
from stages.nets.text_grounded import TextGrounded
from stages.train_text import losses
from stages.train_text.highlight import highlighted_images
from stages.training.distributed import gathered, rank


class Grounded(NamedTuple):
    """What the texts of this process lead to.

    `losses` are named and weighed into `total`; `regions` (n, E) are the unit embeddings of the highlighted images.
    """

    total: Tensor
    losses: dict[str, Tensor]
    regions: Tensor


class Masks(NamedTuple):
    """Masks of the images for the texts of all processes: logits and soft (B, N, h, w), the rows and columns of pairs
    (n,), and which texts there are (N,)."""

    logits: Tensor
    soft: Tensor
    rows: Tensor
    columns: Tensor
    there: Tensor


def ground(net: TextGrounded, images: Tensor, dense: Tensor, texts: Tensor, there: Tensor, config: Any,
           prompt: Tensor | None = None) -> Grounded:
    """Return the losses of `images` (B, 3, H, W), their `dense` embedding (B, E, h, w) and `texts` (n, E).

    `there` (n,) says which texts exist; `prompt` (1, 3, S, S) stands outside the masks (none: the mean colour).
    """
    with torch.autocast(images.device.type, enabled=False):
        dense, every = _full(dense), gathered(unit(_full(texts), -1))
        masks = _masks(net, dense, every, len(texts), there)
        own = masks.logits[masks.rows, masks.columns]
        shown = losses.binary_masks(own, _noise(own)) if config.region_mask == "hard" else own.sigmoid()
    prompt = images.new_zeros(1, 3, 1, 1) if prompt is None else prompt
    regions = net.clip.image_embedding(highlighted_images(images[masks.rows], shown[:, None], prompt))
    with torch.autocast(images.device.type, enabled=False):
        regions = unit(_full(regions), -1)
        found = _losses(net, dense, every, masks, regions, config)
    total = (config.lambda_contrast * (found["image"] + found["map"]) + config.lambda_area * found["area"]
             + config.lambda_area_negative * found["area_negative"] + config.lambda_smooth * found["smooth"])
    return Grounded(total, found, regions)


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _masks(net: TextGrounded, dense: Tensor, every: Tensor, count: int, there: Tensor) -> Masks:
    logits = net.segmenter.logits(dense, every)
    place = torch.arange(count, device=dense.device)
    return Masks(logits, logits.sigmoid(), place % len(dense), rank() * count + place, gathered(there.long()).bool())


def _noise(like: Tensor) -> Tensor:
    """Return uniform numbers, neither 0 nor 1."""
    smallest = torch.finfo(torch.float32).eps
    return torch.rand_like(like).clamp(smallest, 1 - smallest)


def _losses(net: TextGrounded, dense: Tensor, every: Tensor, masks: Masks, regions: Tensor,
            config: Any) -> dict[str, Tensor]:
    dense = unit(dense, 1) if config.dense == "unit" else dense
    pooled = gathered(losses.pooled_cosines(dense, masks.soft, every)[masks.rows])
    image = gathered(regions) @ every.T
    positive = torch.zeros_like(masks.soft[:, :, 0, 0], dtype=torch.bool)
    positive[masks.rows, masks.columns] = True
    known = masks.there[None].expand_as(positive)
    means = masks.soft.mean((-2, -1))
    smooth = losses.total_variation(dense)
    if masks.there.any():
        smooth = smooth + losses.total_variation(masks.soft[:, masks.there])
    return {"image": losses.contrast(image, net.log_scales["image"], masks.there),
            "map": losses.contrast(pooled, net.log_scales["map"], masks.there),
            "area": losses.area(_mean_of(means, positive & known), config.area_prior),
            "area_negative": losses.area(_mean_of(means, ~positive & known), 0.0), "smooth": smooth}


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values over all processes."""
    sums = gathered(torch.stack([(values * chosen).sum(), chosen.sum().to(values.dtype)])[None]).sum(0)
    return sums[0] / sums[1].clamp(min=1)
