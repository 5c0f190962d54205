"""CLIP-ES for a batch of images of one size: raw and refined CAMs from a frozen CLIP.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023).

Shapes: B images, K classes of an image (the largest K of the batch where images are stacked), C classes in all, N
patches, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.cams.config import ClipEsConfig
from stages.cams.softmax_gradcam import (
    combine_channels,
    compute_probability_derivative,
    compute_score_gradients,
    rescale_as_released,
    rescale_to_unit_range,
)
from stages.kernels.attention_affinity import build_box_masks, refine_with_attention


class ImageTower(Protocol):
    """An image encoder that returns patch features and their gradients."""

    num_layers: int

    def embed(self, images: Tensor, *, pooling: str = "average", num_attention_layers: int = 0) -> Any:
        """Return the patches, embedding, attention and grid of a batch."""

    def compute_channel_weights(self, embedded: Any, cotangents: Tensor) -> Tensor:
        """Return the gradient averaged over the patches, (B, K, D)."""


class TextFeatures(NamedTuple):
    """Unit text vectors: `classes` (V, C, E) in V variants, `background` (M, E), and the scale of the cosines.

    `variant_weights` (V, C) are the weights of a class's variants, which sum to 1; without them all weigh the same.
    """

    classes: Tensor
    background: Tensor
    logit_scale: float
    variant_weights: Tensor | None = None

    def get_variant_weight(self, variant: int) -> Tensor:
        """Return the weight of a variant for each class, (C,)."""
        if self.variant_weights is not None:
            return self.variant_weights[variant].to(self.classes)
        return self.classes.new_full(self.classes.shape[1:2], 1 / len(self.classes))


class ImageMaps(NamedTuple):
    """CAMs of one image: `class_ids` (K,) from 1, `raw` and `refined` (K, h, w) in [0, 1], `scores` (K,) in [0, 1]."""

    class_ids: np.ndarray
    raw: Tensor
    refined: Tensor
    scores: np.ndarray


@torch.inference_mode()
def compute_cams(tower: ImageTower, views: Sequence[Tensor], text: TextFeatures, config: ClipEsConfig, threshold: float,
                 choose_classes: Callable[[int, np.ndarray], np.ndarray]) -> list[ImageMaps]:
    """Compute the CAMs of B images, given one tensor (B, 3, H_s, W_s) per scale.

    `choose_classes(position, scores)` returns the class ids of an image, given the scores (C,) of all classes. The
    maps of several scales and of the mirrored images are summed on the grid of scale 1, or of the first scale.
    """
    sides = (False, True) if config.flip else (False,)
    main_view = config.scales.index(1.0) if 1.0 in config.scales else 0
    order = [main_view, *(index for index in range(len(views)) if index != main_view)]
    ids: list[np.ndarray] = []
    raws, refineds, scores = [], [], []
    for index in order:
        for is_mirrored in sides:
            embedded = tower.embed(views[index].flip(-1) if is_mirrored else views[index], pooling=config.pooling,
                                   num_attention_layers=0 if config.affinity == "none" else config.attention_layers)
            ids = ids or [choose_classes(position, score_all_classes(embedding, text))
                          for position, embedding in enumerate(embedded.embedding)]
            raw, refined, probability = _compute_view_maps(tower, embedded, text, ids, config, threshold)
            raws.append(_restore_grid(raw, embedded.grid, is_mirrored))
            refineds.append(_restore_grid(refined, embedded.grid, is_mirrored))
            scores.append(probability)
    raw, refined = _sum_views(raws, config), _sum_views(refineds, config)
    means = torch.stack(scores).mean(0).cpu().numpy()
    return [ImageMaps(class_ids, raw[position, :len(class_ids)], refined[position, :len(class_ids)],
                      means[position, :len(class_ids)])
            for position, class_ids in enumerate(ids)]


def score_all_classes(embedding: Tensor, text: TextFeatures) -> np.ndarray:
    """Return the softmax (C,) of all classes against each other and the background, for one embedding (E,)."""
    unit = embedding / embedding.norm()
    classes = sum(text.get_variant_weight(variant)[:, None] * vectors for variant, vectors in enumerate(text.classes))
    logits = text.logit_scale * torch.cat([classes @ unit, text.background @ unit])
    return logits.softmax(0)[:text.classes.shape[1]].cpu().numpy()


def _compute_view_maps(tower: ImageTower, embedded: Any, text: TextFeatures, ids: Sequence[np.ndarray],
                       config: ClipEsConfig, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return raw and refined maps (B, K, N) and scores (B, K) of one view; rows beyond an image's own K are 0.

    With `as_released` the maps have the scale of the probability's gradient even if the target is the log-odds, so
    that the 1e-7 of the released normalisation dims the same classes. On the seeded CLIPs of the reference values a
    map ends at 0.9999 for a probability of 1e-9, at 0.9 for 1e-12, and at 0.01 for 1e-15.
    """
    rescale = _select_rescaling(config)
    max_classes = max(map(len, ids))
    shape = (len(ids), max_classes, embedded.patches.shape[1])
    raw, scores = embedded.patches.new_zeros(shape), embedded.patches.new_zeros(shape[:2])
    for variant, vectors in enumerate(text.classes if max_classes else ()):
        gradients, probabilities, derivatives = _compute_gradients(embedded.embedding, vectors, text, ids, config)
        weight = _gather_image_classes(text.get_variant_weight(variant), ids, max_classes)
        maps = combine_channels(tower.compute_channel_weights(embedded, gradients), embedded.patches)
        if config.as_released and config.target == "log-odds":
            maps = derivatives[..., None] * maps
        raw += weight[..., None] * rescale(maps)
        scores += weight * probabilities
    raw = rescale(raw) if max_classes else raw
    if embedded.attention is None or not max_classes:
        return raw, raw, scores
    boxes, mask = None, "none"
    if config.affinity == "caa":
        mask = config.effective_box_mask
        boxes = build_box_masks(raw, embedded.grid, threshold, as_released=config.as_released)
    refined = refine_with_attention(raw, boxes, embedded.attention, rounds=config.rounds, steps=config.steps, mask=mask)
    return raw, rescale(refined), scores


def _select_rescaling(config: ClipEsConfig) -> Callable[[Tensor], Tensor]:
    """Return the function that normalises maps (..., N)."""
    return rescale_as_released if config.as_released else rescale_to_unit_range


def _gather_image_classes(values: Tensor, ids: Sequence[np.ndarray], max_classes: int) -> Tensor:
    """Gather from values (C,) of all classes those of each image's classes, (B, K), padded with 0."""
    gathered = values.new_zeros(len(ids), max_classes)
    for position, class_ids in enumerate(ids):
        rows = torch.as_tensor(class_ids.astype(np.int64) - 1, device=values.device)
        gathered[position, :len(class_ids)] = values[rows]
    return gathered


def _compute_gradients(embeddings: Tensor, classes: Tensor, text: TextFeatures, ids: Sequence[np.ndarray],
                       config: ClipEsConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cotangents (B, K, E), scores p and derivatives p (1 - p) (B, K) of each image's classes.

    All are padded with 0. A class without a competitor, whose target is its logit, has derivative 1.
    """
    max_classes = max(map(len, ids))
    gradients = embeddings.new_zeros(len(ids), max_classes, embeddings.shape[1])
    scores, derivatives = embeddings.new_zeros(len(ids), max_classes), embeddings.new_zeros(len(ids), max_classes)
    for position, class_ids in enumerate(ids):
        num_classes = len(class_ids)
        rows = torch.as_tensor(class_ids.astype(np.int64) - 1, device=embeddings.device)
        competitors = classes if config.compete == "all" else classes[rows]
        targets = rows if config.compete == "all" else torch.arange(num_classes, device=embeddings.device)
        competing = torch.cat([competitors, text.background])
        if num_classes:
            gradient, probability = compute_score_gradients(embeddings[position], competing, targets, text.logit_scale,
                                                            config.target)
            gradients[position, :num_classes], scores[position, :num_classes] = gradient, probability[targets]
            derivative = compute_probability_derivative(probability, targets) if len(competing) > 1 else 1
            derivatives[position, :num_classes] = derivative
    return gradients, scores, derivatives


def _restore_grid(maps: Tensor, grid: tuple[int, int], is_mirrored: bool) -> Tensor:
    """Unflatten maps (B, K, N) to (B, K, h, w), and flip those of a mirrored image back."""
    maps = maps.unflatten(-1, grid)
    return maps.flip(-1) if is_mirrored else maps


def _sum_views(view_maps: Sequence[Tensor], config: ClipEsConfig) -> Tensor:
    """Sum the maps of all views on the grid of the first one and normalise them to [0, 1]. Return (B, K, h, w)."""
    if len(view_maps) == 1 or not view_maps[0].shape[1]:
        return view_maps[0]
    size = view_maps[0].shape[-2:]
    resized = [maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)
               for maps in view_maps]
    return _select_rescaling(config)(torch.stack(resized).sum(0).flatten(2)).unflatten(-1, size)
