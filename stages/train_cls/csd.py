"""CSD: an object, and the background around it, are to be seen alike alone and pasted among other objects.

Yang et al., "Cross-domain Semantic Decoupling for Weakly-Supervised Semantic Segmentation" (BMVC 2023), eq. 2 to 6.
The paper prints no eq. 4, and in eq. 5 the pair of eq. 3: here both are of the two channels that its text describes,
the saliency (the sum over the classes) and a constant dummy score, of the single-label image and the pasted background.
The maps of the CAM classifier are its logits. Those of MCTformer are a setting, as the paper has "the last output
feature maps" and its author's code takes the refined ones: the class attention of the last layers times the positive
part of the patch classifier's maps, multiplied by the sum over all layers of the same view's own attention between
patches. In these, and in the fused maps before that product, no gradient passes the patch classifier's maps; its raw
logits are the third choice. Of logits the background's consistency takes the positive part, since the sum of twenty
logits, most below zero, is no saliency. M' = 0.1 was chosen for refined maps; of others, whose scale is another, it is
a share of the largest saliency of the single-label image (`constant_of`), as a background threshold is of a map's
maximum.

Why `mean` is the reduction with cam: the paper has its lambdas "to keep balance with classification loss", and a sum of
logits' divergences has none. The norms of the gradients of the weights, of a MobileNet-v2 after two passes over 471
photographs of VOC (8 pairs of 225 pixels), beside that of the classification, 1.35:

| | 0.01 x foreground | 0.1 x background |
| --- | --- | --- |
| sum | 14.9 | 64.4 |
| mean | 0.35 | 0.74 |

A third pass over them, from those weights, had a mAP of 0.688 without CSD, 0.706 with `mean` and 0.095 with `sum`,
where chance gives 0.076.

Why `sum` remains that of mctformer: with refined maps neither term outweighs the classification. The same norms, of an
MCTformer-V2 on vit_tiny_patch16_224 that learnt 96 of these photographs by heart, from random weights, in 120 and in
240 steps of AdamW of 16 views of 112 pixels (mAP of its class tokens on them 0.230 and 0.382, 0.108 at the start), of
8 pairs of 112 pixels (masks: the ground truth; M' as `constant_of` auto has it), in training mode without drop path.
The classification has 1.24 and 2.11:

| maps, reduction | 0.01 x foreground | 0.1 x background |
| --- | --- | --- |
| refined, sum | 0.0058, 0.31 | 0.048, 0.068 |
| refined, mean | 0.00080, 0.042 | 0.0047, 0.0066 |
| fused, sum | 0.00021, 0.0045 | 0.0096, 0.065 |
| fused, mean | 0.000028, 0.00063 | 0.00093, 0.0064 |
| patch-logits, sum | 0.79, 1.28 | 5.1, 11.2 |
| patch-logits, mean | 0.11, 0.18 | 0.50, 1.09 |

With fused maps the foreground teaches next to nothing; with patch logits `mean` is the reduction in balance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.precision import at_least_fp32
from stages.train_cls import cam, mctformer

BASES = {"cam": cam.loss, "mctformer": mctformer.loss}
_COUNTED = ("pairs", "pairs_without_object", "pairs_without_surroundings")


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return {"loss", "classification", "foreground", "background", "counted", ...}: eq. 6, and what the base tells.

    The base's loss is of `batch["image"]` and `batch["labels"]` alone. The samples with `paired` have `single`,
    `pasted_object` and `pasted_background` (B, 3, S, S), the masks `object` and `surroundings` (B, S, S), `source`, the
    class id of the object (B,), and `back` (B, 2, 3), of which only the maps are compared. "no_object" and
    "no_surroundings" are the shares of pairs without a cell that is wholly inside: they add nothing. "counted" has
    these as numbers, and all pairs. With both weights 0 no pair is looked at.
    """
    told = BASES[config.base](net, batch, config)
    found = {"classification": told["loss"], **_consistency(net, batch, config)}
    total = told["loss"] + config.lambda_fg * found["foreground"] + config.lambda_bg * found["background"]
    return {**told, **found, "loss": total}


def sum_up(counted: Mapping[str, int]) -> str:
    """Say in words how many pairs of a whole training added nothing."""
    pairs, objects, backgrounds = (counted.get(name, 0) for name in _COUNTED)
    return (f"{pairs} pairs: {objects} without a cell wholly inside the object, {backgrounds} without one wholly "
            "inside the background; these were skipped")


def _consistency(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    chosen = batch["paired"].bool()
    nothing = batch["image"].new_zeros(())
    found: dict[str, Any] = dict.fromkeys(("foreground", "background", "no_object", "no_surroundings"), nothing)
    counted = found["counted"] = dict.fromkeys(_COUNTED, nothing)
    weights = {"foreground": config.lambda_fg, "background": config.lambda_bg}
    if not chosen.any() or not any(weights.values()):
        return found
    counted["pairs"] = chosen.sum()
    pairs = {name: batch[name][chosen] for name in ("single", "pasted_object", "pasted_background", "object",
                                                    "surroundings", "source", "back")}
    teacher = teacher_maps(net, pairs["single"], config)
    views = [pairs[name] for name, weight in (("pasted_object", config.lambda_fg),
                                              ("pasted_background", config.lambda_bg)) if weight]
    students = list(class_maps(net, torch.cat(views), config).chunk(len(views)))
    # Patches that the border of a view cuts reach beyond it.
    cell = int(net.stride) if config.base == "mctformer" else 0
    cells = {name: whole_cells(pairs[name], teacher.shape[-2:], cell) for name in ("object", "surroundings")}
    for name, inside in cells.items():
        found[f"no_{name}"] = _without(inside).mean()
        counted[f"pairs_without_{name}"] = _without(inside).sum()
    if config.lambda_fg:
        seen = teacher if stays(config) else carried(teacher, pairs["back"], _share(pairs["object"], teacher, cell))
        each = foreground_divergence(seen, students.pop(0), config, pairs["source"])
        found["foreground"] = reduced(each, cells["object"], config.reduction)
    if config.lambda_bg:
        each = background_divergence(teacher, students.pop(), config)
        found["background"] = reduced(each, cells["surroundings"], config.reduction)
    return found


def class_maps(net: Any, images: Tensor, config: Any) -> Tensor:
    """Return the maps M (B, C, h, w) of images (B, 3, S, S) that are compared (eq. 2), float32 at least.

    Of an MCTformer `config.csd_maps` says which; its refined and fused maps pass no gradient to the patch classifier.
    """
    if config.base == "cam":
        maps = net.maps(images)
    elif config.csd_maps == "patch-logits":
        maps = net.patch_maps(images)
    else:
        maps = net.maps(images, layers=config.csd_layers, refine=config.csd_maps == "refined", detach_patch=True)
    return at_least_fp32(maps)


def teacher_maps(net: nn.Module, images: Tensor, config: Any) -> Tensor:
    """Return the maps M_s (B, C, h, w) of images (B, 3, S, S): the same weights in evaluation mode, no gradient."""
    with _evaluating(net), torch.no_grad():
        return class_maps(net, images, config)


def foreground_divergence(teacher: Tensor, student: Tensor, config: Any, source: Tensor) -> Tensor:
    """Return KL(M_s || M_sm^fg) of each cell (B, h, w), over the softmax of the classes' maps (B, C, h, w) (eq. 3).

    With `config.terms` "own" it is the term of the class ids `source` (B,) alone.
    """
    terms = divergence_terms(teacher / config.temperature, student / config.temperature)
    if config.terms == "own":
        return terms.gather(1, (source - 1)[:, None, None, None].expand(-1, 1, *terms.shape[-2:]))[:, 0]
    return terms.sum(1)


def background_divergence(teacher: Tensor, student: Tensor, config: Any) -> Tensor:
    """Return KL(M~_s || M~_sm^bg) of each cell (B, h, w), over the saliency of maps (B, C, h, w) and M' (eq. 4, 5).

    With `config.saliency` "per-class" M' stands beside the C maps instead of their sum; with `config.terms` "own" it
    is the term of M' alone.
    """
    known, other = (salient(maps, config.saliency) for maps in (teacher, student))
    dummy = torch.full_like(known[:, :1], config.constant)
    if config.constant_of == "largest" or (config.constant_of == "auto" and not _on_scale_of_constant(config)):
        dummy = dummy * known.amax((1, 2, 3), keepdim=True)
    terms = divergence_terms(torch.cat([known, dummy], 1) / config.temperature,
                             torch.cat([other, dummy], 1) * (config.background_gain / config.temperature))
    return terms[:, -1] if config.terms == "own" else terms.sum(1)


def _on_scale_of_constant(config: Any) -> bool:
    """Return whether the maps are those that the published M' was chosen for."""
    return config.base == "mctformer" and config.csd_maps == "refined"


def salient(maps: Tensor, form: str) -> Tensor:
    """Return the positive part of maps (B, C, h, w), or with `form` "sum" its sum over the classes (B, 1, h, w)."""
    positive = maps.relu()
    return positive.sum(1, keepdim=True) if form == "sum" else positive


def divergence_terms(first: Tensor, second: Tensor) -> Tensor:
    """Return p (log p - log q) (B, L, h, w) of the softmax p of scores `first`, q of `second`, over L channels."""
    p, q = first.log_softmax(1), second.log_softmax(1)
    return p.exp() * (p - q)


def whole_cells(mask: Tensor, grid: tuple[int, ...], cell: int = 0) -> Tensor:
    """Return (B, h, w) bool of a mask (B, S, S): cells of the `grid` (h, w) all of whose pixels are set.

    The grid is stretched over the mask, and a pixel that a cell's border cuts counts for both cells. With `cell` its
    cells are of so many pixels, and those that reach beyond the mask at the right and the bottom are not chosen.
    """
    outside = (mask == 0).to(torch.float32)
    if cell:
        outside = F.pad(outside, (0, grid[1] * cell - mask.shape[2], 0, grid[0] * cell - mask.shape[1]), value=1.0)
    return F.adaptive_max_pool2d(outside, (grid[0], grid[1])) == 0


def reduced(divergence: Tensor, cells: Tensor, reduction: str) -> Tensor:
    """Return the divergence (B, h, w) over the chosen `cells` (B, h, w): their sum in each of the B, mean over these.

    With `reduction` "mean" over all chosen cells instead. 0 without a cell.
    """
    total = torch.where(cells, divergence, torch.zeros_like(divergence)).sum()
    return total / (len(cells) if reduction == "sum" else cells.sum().clamp(min=1))


def carried(maps: Tensor, back: Tensor, share: float = 1.0) -> Tensor:
    """Return maps (B, C, h, w) as they are seen where `back` (B, 2, 3) leads to them, bilinearly.

    `share` of a side of the maps is that of the view, from the upper left corner on, which is what `back` knows.
    """
    if share != 1:
        linear, shift = back[..., :2], back[..., 2:]
        ends = linear.sum(-1, keepdim=True) - 1
        back = torch.cat([linear, ends + share * (shift - ends)], -1)
    grid = F.affine_grid(back.to(maps.dtype), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def stays(config: Any) -> bool:
    """Return whether pasted objects are left where they were."""
    return config.placement == "same" and config.paste_scale == (1.0, 1.0) and not config.paste_rotation


def _share(mask: Tensor, maps: Tensor, cell: int) -> float:
    """Return how much of a side of square maps of cells of `cell` pixels lies in the view, that of `mask`."""
    return mask.shape[-1] / (cell * maps.shape[-1]) if cell else 1.0


def _without(cells: Tensor) -> Tensor:
    """Return (B,) float32, 1 where a pair has none of the cells (B, h, w)."""
    return (~cells.flatten(1).any(1)).to(torch.float32)


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Put the net in evaluation mode, and afterwards each of its modules back into its own."""
    before = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
