"""CSD: the CAMs of an object, and of the background around it, must stay the same when it is pasted into another image.

Yang et al., "Cross-domain Semantic Decoupling for Weakly-Supervised Semantic Segmentation" (BMVC 2023), eq. 2 to 6.
The paper omits eq. 4, and prints the pair of eq. 3 in eq. 5. Here both have the two channels that its text describes,
the saliency (the sum over the classes) and a constant dummy score, of the single-label image and the pasted background.

The maps of the CAM classifier are its logits. Those of MCTformer are a setting, as the paper says "the last output
feature maps" and its author's code takes the refined ones: the class attention of the last layers times the positive
part of the patch classifier's maps, multiplied by the sum over all layers of the attention between patches in the same
view. In these, and in the fused maps before that product, no gradient passes through the patch classifier's maps; its
raw logits are the third choice. The background's consistency takes the positive part of logits, since the sum of twenty
logits, most of them below zero, is not a saliency. M' = 0.1 was chosen for refined maps. For other maps, which have
another scale, it is a share of the largest saliency of the single-label image (`constant_of`), as a background
threshold is a share of a map's maximum.

Why `mean` is the reduction with cam: the paper chose its lambdas "to keep balance with classification loss", and a sum
of the divergences of logits is out of balance. These are the norms of the weights' gradients, in a MobileNet-v2 after
two epochs on 471 photographs of VOC (8 pairs of 225 pixels); that of the classification is 1.35:

| | 0.01 x foreground | 0.1 x background |
| --- | --- | --- |
| sum | 14.9 | 64.4 |
| mean | 0.35 | 0.74 |

A third epoch from those weights had a mAP of 0.688 without CSD, 0.706 with `mean` and 0.095 with `sum`, where chance
gives 0.076.

Why `sum` remains the reduction with mctformer: with refined maps neither term outweighs the classification. These are
the same norms in an MCTformer-V2 on vit_tiny_patch16_224, in training mode without drop path, on 8 pairs of 112 pixels
(masks: the ground truth; M' by `constant_of` auto). It had overfitted 96 of these photographs from random weights, in
120 and in 240 steps of AdamW with 16 views of 112 pixels (the mAP of its class tokens on them was 0.230 and 0.382, and
0.108 at the start). The norm of the classification is 1.24 and 2.11:

| maps, reduction | 0.01 x foreground | 0.1 x background |
| --- | --- | --- |
| refined, sum | 0.0058, 0.31 | 0.048, 0.068 |
| refined, mean | 0.00080, 0.042 | 0.0047, 0.0066 |
| fused, sum | 0.00021, 0.0045 | 0.0096, 0.065 |
| fused, mean | 0.000028, 0.00063 | 0.00093, 0.0064 |
| patch-logits, sum | 0.79, 1.28 | 5.1, 11.2 |
| patch-logits, mean | 0.11, 0.18 | 0.50, 1.09 |

With fused maps the foreground has next to no effect; with patch logits `mean` is the balanced reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.precision import promote_to_fp32
from stages.train_cls import cam, mctformer

BASE_LOSSES = {"cam": cam.loss, "mctformer": mctformer.loss}
_COUNT_NAMES = ("pairs", "pairs_without_object", "pairs_without_surroundings")


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return {"loss", "classification", "foreground", "background", "counted", ...}: eq. 6, and the losses of the base.

    The loss of the base uses `batch["image"]` and `batch["labels"]` alone. Samples with `paired` set have the images
    `single`, `pasted_object` and `pasted_background` (B, 3, S, S), whose maps are compared, the masks `object` and
    `surroundings` (B, S, S), `pasted_class`, the class id of the object (B,), and `inverse_affine` (B, 2, 3).
    "no_object" and "no_surroundings" are the shares of pairs without a cell that lies wholly inside the mask; these
    pairs add nothing. "counted" has their numbers, and that of all pairs. With both weights 0 pairs are skipped.
    """
    base_losses = BASE_LOSSES[config.base](net, batch, config)
    losses = {"classification": base_losses["loss"], **_compute_consistency(net, batch, config)}
    total = base_losses["loss"] + config.lambda_fg * losses["foreground"] + config.lambda_bg * losses["background"]
    return {**base_losses, **losses, "loss": total}


def summarise_counts(counts: Mapping[str, int]) -> str:
    """Return a sentence that says how many pairs of a whole training added nothing."""
    num_pairs, num_without_object, num_without_background = (counts.get(name, 0) for name in _COUNT_NAMES)
    return (f"Of {num_pairs} pasted pairs, {num_without_object} had no cell wholly inside the object and "
            f"{num_without_background} none wholly inside the background; they were skipped.")


def _compute_consistency(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    is_paired = batch["paired"].bool()
    zero = batch["image"].new_zeros(())
    losses: dict[str, Any] = dict.fromkeys(("foreground", "background", "no_object", "no_surroundings"), zero)
    counts = losses["counted"] = dict.fromkeys(_COUNT_NAMES, zero)
    if not is_paired.any() or not (config.lambda_fg or config.lambda_bg):
        return losses
    counts["pairs"] = is_paired.sum()
    pairs = {name: batch[name][is_paired] for name in ("single", "pasted_object", "pasted_background", "object",
                                                    "surroundings", "pasted_class", "inverse_affine")}
    teacher = compute_teacher_maps(net, pairs["single"], config)
    views = [pairs[name] for name, weight in (("pasted_object", config.lambda_fg),
                                              ("pasted_background", config.lambda_bg)) if weight]
    students = list(compute_class_maps(net, torch.cat(views), config).chunk(len(views)))
    # Patches at the border of a view can reach beyond it.
    cell_size = int(net.stride) if config.base == "mctformer" else 0
    cells = {name: select_full_cells(pairs[name], teacher.shape[-2:], cell_size)
             for name in ("object", "surroundings")}
    for name, is_inside in cells.items():
        losses[f"no_{name}"] = _is_empty(is_inside).mean()
        counts[f"pairs_without_{name}"] = _is_empty(is_inside).sum()
    if config.lambda_fg:
        share = _compute_view_share(pairs["object"], teacher, cell_size)
        moved_teacher = teacher if is_pasted_in_place(config) else warp_maps(teacher, pairs["inverse_affine"], share)
        divergence = foreground_divergence(moved_teacher, students.pop(0), config, pairs["pasted_class"])
        losses["foreground"] = reduce_divergence(divergence, cells["object"], config.reduction)
    if config.lambda_bg:
        divergence = background_divergence(teacher, students.pop(), config)
        losses["background"] = reduce_divergence(divergence, cells["surroundings"], config.reduction)
    return losses


def compute_class_maps(net: Any, images: Tensor, config: Any) -> Tensor:
    """Return the maps M (B, C, h, w) of images (B, 3, S, S) to compare (eq. 2), in float32 or wider.

    For an MCTformer, `config.csd_maps` chooses them; its refined and fused maps pass no gradient to the patch
    classifier.
    """
    if config.base == "cam":
        maps = net.maps(images)
    elif config.csd_maps == "patch-logits":
        maps = net.forward_patch_maps(images)
    else:
        maps = net.maps(images, layers=config.csd_layers, refine=config.csd_maps == "refined", detach_patch=True)
    return promote_to_fp32(maps)


def compute_teacher_maps(net: nn.Module, images: Tensor, config: Any) -> Tensor:
    """Return the maps M_s (B, C, h, w) of images (B, 3, S, S), by the same weights in evaluation mode, no gradient."""
    with _evaluation_mode(net), torch.no_grad():
        return compute_class_maps(net, images, config)


def foreground_divergence(teacher: Tensor, student: Tensor, config: Any, class_ids: Tensor) -> Tensor:
    """Return KL(M_s || M_sm^fg) of each cell (B, h, w), over the softmax of the classes' maps (B, C, h, w) (eq. 3).

    With `config.terms` "own" it is only the term of the pasted class, `class_ids` (B,).
    """
    terms = divergence_terms(teacher / config.temperature, student / config.temperature)
    if config.terms == "own":
        return terms.gather(1, (class_ids - 1)[:, None, None, None].expand(-1, 1, *terms.shape[-2:]))[:, 0]
    return terms.sum(1)


def background_divergence(teacher: Tensor, student: Tensor, config: Any) -> Tensor:
    """Return KL(M~_s || M~_sm^bg) of each cell (B, h, w), over the saliency of maps (B, C, h, w) and M' (eq. 4, 5).

    With `config.saliency` "per-class" the channels are the C maps, instead of their sum, and M'. With `config.terms`
    "own" it is only the term of M'.
    """
    saliency, student_saliency = (compute_saliency(maps, config.saliency) for maps in (teacher, student))
    dummy = torch.full_like(saliency[:, :1], config.constant)
    if config.constant_of == "largest" or (config.constant_of == "auto" and not _has_published_scale(config)):
        dummy = dummy * saliency.amax((1, 2, 3), keepdim=True)
    terms = divergence_terms(torch.cat([saliency, dummy], 1) / config.temperature,
                             torch.cat([student_saliency, dummy], 1) * (config.background_gain / config.temperature))
    return terms[:, -1] if config.terms == "own" else terms.sum(1)


def _has_published_scale(config: Any) -> bool:
    """Return whether the maps are the ones for which the published M' was chosen."""
    return config.base == "mctformer" and config.csd_maps == "refined"


def compute_saliency(maps: Tensor, form: str) -> Tensor:
    """Return the positive part of maps (B, C, h, w), or with `form` "sum" its sum over the classes (B, 1, h, w)."""
    positive = maps.relu()
    return positive.sum(1, keepdim=True) if form == "sum" else positive


def divergence_terms(first: Tensor, second: Tensor) -> Tensor:
    """Return p (log p - log q) (B, L, h, w), where p and q are the softmax of `first` and `second` over L channels."""
    p, q = first.log_softmax(1), second.log_softmax(1)
    return p.exp() * (p - q)


def select_full_cells(mask: Tensor, grid: tuple[int, ...], cell_size: int = 0) -> Tensor:
    """Return (B, h, w) bool: the cells of a `grid` (h, w) over the mask (B, S, S) whose pixels are all set.

    The grid is stretched over the mask, and a pixel on the border of two cells counts for both. With `cell_size` the
    cells have that many pixels a side, and those that reach beyond the mask at the right and the bottom are not full.
    """
    outside = (mask == 0).to(torch.float32)
    if cell_size:
        padding = (0, grid[1] * cell_size - mask.shape[2], 0, grid[0] * cell_size - mask.shape[1])
        outside = F.pad(outside, padding, value=1.0)
    return F.adaptive_max_pool2d(outside, (grid[0], grid[1])) == 0


def reduce_divergence(divergence: Tensor, cells: Tensor, reduction: str) -> Tensor:
    """Return the divergence (B, h, w) over the chosen `cells` (B, h, w), summed in each pair and averaged over pairs.

    With `reduction` "mean" it is the mean over all chosen cells instead. 0 when there is no cell.
    """
    total = torch.where(cells, divergence, torch.zeros_like(divergence)).sum()
    return total / (len(cells) if reduction == "sum" else cells.sum().clamp(min=1))


def warp_maps(maps: Tensor, inverse_affine: Tensor, share: float = 1.0) -> Tensor:
    """Return maps (B, C, h, w) warped bilinearly: `inverse_affine` (B, 2, 3) maps output to input coordinates.

    Its coordinates are those of the view, which covers `share` of each side of the maps from the upper left corner.
    """
    if share != 1:
        linear, shift = inverse_affine[..., :2], inverse_affine[..., 2:]
        ends = linear.sum(-1, keepdim=True) - 1
        inverse_affine = torch.cat([linear, ends + share * (shift - ends)], -1)
    grid = F.affine_grid(inverse_affine.to(maps.dtype), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def is_pasted_in_place(config: Any) -> bool:
    """Return whether pasted objects keep their position, scale and rotation."""
    return config.placement == "same" and config.paste_scale == (1.0, 1.0) and not config.paste_rotation


def _compute_view_share(mask: Tensor, maps: Tensor, cell_size: int) -> float:
    """Return the share of a side of square maps, with cells of `cell_size` pixels, that the view of `mask` covers."""
    return mask.shape[-1] / (cell_size * maps.shape[-1]) if cell_size else 1.0


def _is_empty(cells: Tensor) -> Tensor:
    """Return (B,) float32, 1 for each pair without a cell (B, h, w)."""
    return (~cells.flatten(1).any(1)).to(torch.float32)


@contextmanager
def _evaluation_mode(net: nn.Module) -> Iterator[None]:
    """Put the network in evaluation mode, and restore the mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training
