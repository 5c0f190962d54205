"""CLIP-ES for a batch of images of one size: raw and refined maps from a frozen CLIP.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.cams.affinity import box_mask, refine
from stages.cams.config import ClipEsConfig
from stages.cams.softmax_gradcam import cotangents, probability_slope, released_range, unit_range, weighted_maps


class Tower(Protocol):
    """An image tower whose features and gradients can be had."""

    layers: int

    def embed(self, images: Tensor, *, pooling: str = "average", capture: int = 0) -> Any:
        """Return patches, embedding, attention and grid of a batch."""

    def channel_weights(self, embedded: Any, cotangents: Tensor) -> Tensor:
        """Return (B, K, D), the mean gradient over the patches."""


class TextSide(NamedTuple):
    """Unit vectors: `classes` (V, C, E) in V variants, `background` (M, E), and the factor of the cosines.

    `shares` (V, C) is what a variant counts for a class, 1 in all; without it all count alike.
    """

    classes: Tensor
    background: Tensor
    scale: float
    shares: Tensor | None = None

    def share(self, variant: int) -> Tensor:
        """Return what a variant counts for each class, (C,)."""
        if self.shares is not None:
            return self.shares[variant].to(self.classes)
        return self.classes.new_full(self.classes.shape[1:2], 1 / len(self.classes))


class ImageMaps(NamedTuple):
    """Of one image: `class_ids` (K,) from 1, `raw` and `refined` (K, h, w) in [0, 1], `scores` (K,) in [0, 1]."""

    class_ids: np.ndarray
    raw: Tensor
    refined: Tensor
    scores: np.ndarray


@torch.inference_mode()
def batch_maps(tower: Tower, views: Sequence[Tensor], text: TextSide, config: ClipEsConfig, threshold: float,
               chosen: Callable[[int, np.ndarray], np.ndarray]) -> list[ImageMaps]:
    """Return the maps of B images, given one tensor (B, 3, H_s, W_s) per scale.

    `chosen(position, scores)` gives the class ids of an image from the scores (C,) of all classes. The maps of
    several scales and mirror images are summed on the grid of scale 1, or of the first one.
    """
    sides = (False, True) if config.flip else (False,)
    at = config.scales.index(1.0) if 1.0 in config.scales else 0
    order = [at, *(place for place in range(len(views)) if place != at)]
    ids: list[np.ndarray] = []
    raws, refineds, scores = [], [], []
    for place in order:
        for mirrored in sides:
            embedded = tower.embed(views[place].flip(-1) if mirrored else views[place], pooling=config.pooling,
                                   capture=0 if config.affinity == "none" else config.attention_layers)
            ids = ids or [chosen(position, all_scores(one, text)) for position, one in enumerate(embedded.embedding)]
            raw, refined, probability = _view_maps(tower, embedded, text, ids, config, threshold)
            raws.append(_on_grid(raw, embedded.grid, mirrored))
            refineds.append(_on_grid(refined, embedded.grid, mirrored))
            scores.append(probability)
    raw, refined = _summed(raws, config), _summed(refineds, config)
    means = torch.stack(scores).mean(0).cpu().numpy()
    return [ImageMaps(own, raw[place, :len(own)], refined[place, :len(own)], means[place, :len(own)])
            for place, own in enumerate(ids)]


def all_scores(embedding: Tensor, text: TextSide) -> np.ndarray:
    """Return the softmax (C,) of all classes against each other and the background, for one embedding (E,)."""
    unit = embedding / embedding.norm()
    classes = sum(text.share(place)[:, None] * variant for place, variant in enumerate(text.classes))
    logits = text.scale * torch.cat([classes @ unit, text.background @ unit])
    return logits.softmax(0)[:text.classes.shape[1]].cpu().numpy()


def _view_maps(tower: Tower, embedded: Any, text: TextSide, ids: Sequence[np.ndarray], config: ClipEsConfig,
               threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return raw and refined maps (B, K, N) and scores (B, K) of one view; rows beyond an image's K are 0.

    With `as_released` the maps have the scale of the probability's gradient also where the target is the log-odds, so
    that the 1e-7 of the released normalisation dims the same classes. On the seeded CLIPs of the reference values a map
    ends at 0.9999 for a probability of 1e-9, at 0.9 for 1e-12, and at 0.01 for 1e-15.
    """
    stretch = _stretch(config)
    most = max(map(len, ids))
    shape = (len(ids), most, embedded.patches.shape[1])
    raw, scores = embedded.patches.new_zeros(shape), embedded.patches.new_zeros(shape[:2])
    for place, variant in enumerate(text.classes if most else ()):
        gradients, probabilities, slopes = _gradients(embedded.embedding, variant, text, ids, config)
        share = _of_present(text.share(place), ids, most)
        maps = weighted_maps(tower.channel_weights(embedded, gradients), embedded.patches)
        if config.as_released and config.target == "log-odds":
            maps = slopes[..., None] * maps
        raw += share[..., None] * stretch(maps)
        scores += share * probabilities
    raw = stretch(raw) if most else raw
    if embedded.attention is None or not most:
        return raw, raw, scores
    boxes, mask = None, "none"
    if config.affinity == "caa":
        mask = config.masked_by_boxes
        boxes = _boxes(raw, embedded.grid, threshold, config.as_released)
    refined = refine(raw, boxes, embedded.attention, rounds=config.rounds, steps=config.steps, mask=mask)
    return raw, stretch(refined), scores


def _stretch(config: ClipEsConfig) -> Callable[[Tensor], Tensor]:
    """Return the normalisation of maps (..., N)."""
    return released_range if config.as_released else unit_range


def _of_present(values: Tensor, ids: Sequence[np.ndarray], most: int) -> Tensor:
    """Return of values (C,) of all classes those of each image's own, (B, K), padded with 0."""
    rows = values.new_zeros(len(ids), most)
    for place, own in enumerate(ids):
        rows[place, :len(own)] = values[torch.as_tensor(own.astype(np.int64) - 1, device=values.device)]
    return rows


def _gradients(embeddings: Tensor, classes: Tensor, text: TextSide, ids: Sequence[np.ndarray],
               config: ClipEsConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cotangents (B, K, E), scores p and slopes p (1 - p) (B, K) of each image's classes, padded with 0.

    A class without a competitor, whose target is its logit, has slope 1.
    """
    most = max(map(len, ids))
    gradients = embeddings.new_zeros(len(ids), most, embeddings.shape[1])
    scores, slopes = embeddings.new_zeros(len(ids), most), embeddings.new_zeros(len(ids), most)
    for place, own in enumerate(ids):
        rows = torch.as_tensor(own.astype(np.int64) - 1, device=embeddings.device)
        among = classes if config.compete == "all" else classes[rows]
        targets = rows if config.compete == "all" else torch.arange(len(own), device=embeddings.device)
        competing = torch.cat([among, text.background])
        if len(own):
            found = cotangents(embeddings[place], competing, targets, text.scale, config.target)
            gradients[place, :len(own)], scores[place, :len(own)] = found[0], found[1][targets]
            slopes[place, :len(own)] = probability_slope(found[1], targets) if len(competing) > 1 else 1
    return gradients, scores, slopes


def _boxes(raw: Tensor, grid: tuple[int, int], threshold: float, as_released: bool) -> Tensor:
    maps = raw.unflatten(-1, grid).float().cpu().numpy()
    found = [[box_mask(one, threshold, as_released=as_released) for one in image] for image in maps]
    return torch.from_numpy(np.array(found)).flatten(2).to(raw)


def _on_grid(maps: Tensor, grid: tuple[int, int], mirrored: bool) -> Tensor:
    square = maps.unflatten(-1, grid)
    return square.flip(-1) if mirrored else square


def _summed(maps: Sequence[Tensor], config: ClipEsConfig) -> Tensor:
    """Return the sum (B, K, h, w) on the grid of the first, between 0 and 1."""
    if len(maps) == 1 or not maps[0].shape[1]:
        return maps[0]
    size = maps[0].shape[-2:]
    resized = [one if one.shape[-2:] == size else F.interpolate(one, size, mode="bilinear", align_corners=False)
               for one in maps]
    return _stretch(config)(torch.stack(resized).sum(0).flatten(2)).unflatten(-1, size)
