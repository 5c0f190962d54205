"""Manifold Mixup-CAM: hidden maps of two images mixed at a random stage of the network. Verma et al. (ICML 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.train_cls.mixing import draw_share, mixed_loss, permuted

INPUT = "input"


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return the losses of samples mixed at one of `config.mix_at`, drawn uniformly, or at the input."""
    places = stages_to_mix(net, config)
    place = places[int(torch.randint(len(places), ()))]
    share, (order, images, labels) = draw_share(config.alpha), permuted(batch)
    if place == INPUT:
        features = net.backbone(batch["image"] * share + images * (1 - share))
    else:
        features = _mixed_inside(net.backbone, place, batch["image"], order, share)
    return mixed_loss(net, features, batch["labels"], labels, share, config)


def stages_to_mix(net: nn.Module, config: Any) -> tuple[str, ...]:
    """Return the places asked for: `input` and names of the backbone's blocks; by default all blocks but the last.

    Blocks that hand on no single map, or that images don't pass on their way to the final one, are none. Raises
    UsageError naming the blocks.
    """
    blocks = net.backbone.passed_blocks
    known = (INPUT, *blocks[:-1])
    places = tuple(one.strip() for one in config.mix_at.split(",") if one.strip()) or known
    unknown = [place for place in places if place not in (INPUT, *blocks)]
    if unknown:
        why = "has no such stage" if unknown[0] not in net.backbone.blocks else "has no single map there"
        raise UsageError(f"--mix-at {unknown[0]}: the network {why}", f"give some of {', '.join(known)}")
    return places


def _mixed_inside(backbone: Any, block: str, images: Tensor, order: Tensor, share: float) -> Tensor:
    handle = backbone.last_module(block).register_forward_hook(
        lambda _module, _inputs, output: output * share + output[order] * (1 - share))
    try:
        return backbone(images)
    finally:
        handle.remove()
