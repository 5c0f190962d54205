"""Compute the losses by which TCL learns the mask of a text (L_seg^v of CoDe), over the texts of all processes.

Cha et al., TCL (CVPR 2023), section 3.3: the part of an image inside the mask should match its text in CLIP, and so
should the mean of the map under the mask. The masks of texts that belong to the image have an expected area, those of
other texts are empty; maps and masks are smooth.

Shapes: B images of this process, J texts per image, n = J B texts of this process, N = R n texts of all R processes;
noun-major: text j of image b is row j B + b. E is the size of the embedding, (h, w) that of the map.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages.nets.image_segmenter import scale_to_unit_length
from stages.nets.precision import promote_to_fp32
from stages.nets.text_grounded import TextGroundedNet
from stages.train_text import losses
from stages.train_text.highlight import highlight_images
from stages.training.distributed import gather_across_ranks, get_rank


class GroundingLosses(NamedTuple):
    """The losses of the texts of this process.

    `total` is the weighted sum of the named `losses`; `regions` (n, E) are the unit embeddings of highlighted images.
    """

    total: Tensor
    losses: dict[str, Tensor]
    regions: Tensor


class TextMasks(NamedTuple):
    """Masks of the images of this process for the texts of all processes.

    `logits` and `soft` are (B, N, h, w), `rows` and `columns` (n,) index the matching pairs of image and text, and
    `valid` (N,) says which texts exist.
    """

    logits: Tensor
    soft: Tensor
    rows: Tensor
    columns: Tensor
    valid: Tensor


def compute_grounding_losses(net: TextGroundedNet, images: Tensor, dense: Tensor, texts: Tensor, valid: Tensor,
                             config: Any, prompt: Tensor | None = None) -> GroundingLosses:
    """Return the losses of `images` (B, 3, H, W), their `dense` embedding (B, E, h, w) and `texts` (n, E).

    `valid` (n,) says which texts exist; `prompt` (1, 3, S, S) fills the image outside the masks (None: the mean
    colour).
    """
    with torch.autocast(images.device.type, enabled=False):
        dense, all_texts = promote_to_fp32(dense), gather_across_ranks(scale_to_unit_length(promote_to_fp32(texts), -1))
        masks = _build_masks(net, dense, all_texts, len(texts), valid)
        mask_logits = masks.logits[masks.rows, masks.columns]
        image_masks = (losses.sample_binary_masks(mask_logits, _draw_uniform_noise(mask_logits))
                       if config.region_mask == "hard" else mask_logits.sigmoid())
    prompt = images.new_zeros(1, 3, 1, 1) if prompt is None else prompt
    regions = net.clip.encode_image(highlight_images(images[masks.rows], image_masks[:, None], prompt))
    with torch.autocast(images.device.type, enabled=False):
        regions = scale_to_unit_length(promote_to_fp32(regions), -1)
        terms = _compute_terms(net, dense, all_texts, masks, regions, config)
    total = (config.lambda_contrast * (terms["image"] + terms["map"]) + config.lambda_area * terms["area"]
             + config.lambda_area_negative * terms["area_negative"] + config.lambda_smooth * terms["smooth"])
    return GroundingLosses(total, terms, regions)


def _build_masks(net: TextGroundedNet, dense: Tensor, all_texts: Tensor, num_texts: int, valid: Tensor) -> TextMasks:
    """Return the masks for `all_texts` (N, E), of which `num_texts` belong to this process."""
    logits = net.segmenter.logits(dense, all_texts)
    index = torch.arange(num_texts, device=dense.device)
    return TextMasks(logits, logits.sigmoid(), index % len(dense), get_rank() * num_texts + index,
                     gather_across_ranks(valid.long()).bool())


def _draw_uniform_noise(like: Tensor) -> Tensor:
    """Return uniform random numbers in the shape of `like`, neither 0 nor 1."""
    smallest = torch.finfo(torch.float32).eps
    return torch.rand_like(like).clamp(smallest, 1 - smallest)


def _compute_terms(net: TextGroundedNet, dense: Tensor, all_texts: Tensor, masks: TextMasks, regions: Tensor,
                   config: Any) -> dict[str, Tensor]:
    """Return the terms of TCL's loss by name, over the pairs of images and texts of all ranks."""
    dense = scale_to_unit_length(dense, 1) if config.dense == "unit" else dense
    pooled = gather_across_ranks(losses.pooled_cosines(dense, masks.soft, all_texts)[masks.rows])
    image = gather_across_ranks(regions) @ all_texts.T
    positive = torch.zeros_like(masks.soft[:, :, 0, 0], dtype=torch.bool)
    positive[masks.rows, masks.columns] = True
    valid = masks.valid[None].expand_as(positive)
    areas = masks.soft.mean((-2, -1))
    smooth = losses.total_variation(dense)
    if masks.valid.any():
        smooth = smooth + losses.total_variation(masks.soft[:, masks.valid])
    return {"image": losses.symmetric_info_nce(image, net.log_scales["image"], masks.valid),
            "map": losses.symmetric_info_nce(pooled, net.log_scales["map"], masks.valid),
            "area": losses.area_loss(_average_selected(areas, positive & valid), config.area_prior),
            "area_negative": losses.area_loss(_average_selected(areas, ~positive & valid), 0.0), "smooth": smooth}


def _average_selected(values: Tensor, selected: Tensor) -> Tensor:
    """Return the mean of the selected values over all processes."""
    local_sums = torch.stack([(values * selected).sum(), selected.sum().to(values.dtype)])
    sums = gather_across_ranks(local_sums[None]).sum(0)
    return sums[0] / sums[1].clamp(min=1)
