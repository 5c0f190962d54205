"""Train the classifier on mixed hidden features of two images (Manifold Mixup-CAM). Verma et al. (ICML 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.train_cls.mixing import draw_mixing_ratio, mixed_loss, permute_batch

INPUT = "input"


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return the losses of samples mixed at a layer drawn uniformly from those of `config.mix_at`."""
    layers = select_mixing_layers(net, config)
    layer = layers[int(torch.randint(len(layers), ()))]
    ratio, (order, images, labels) = draw_mixing_ratio(config.alpha), permute_batch(batch)
    if layer == INPUT:
        features = net.backbone(batch["image"] * ratio + images * (1 - ratio))
    else:
        features = _mix_at_block(net.backbone, layer, batch["image"], order, ratio)
    return mixed_loss(net, features, batch["labels"], labels, ratio, config)


def select_mixing_layers(net: nn.Module, config: Any) -> tuple[str, ...]:
    """Return the layers of `--mix-at`: `input` and backbone blocks; by default input and all blocks but the last.

    Blocks that do not output a single feature map on the path to the last one can't be used. Raises UsageError, with
    the names of those that can.
    """
    blocks = net.backbone.single_output_blocks
    default_layers = (INPUT, *blocks[:-1])
    layers = tuple(layer.strip() for layer in config.mix_at.split(",") if layer.strip()) or default_layers
    invalid = [layer for layer in layers if layer not in (INPUT, *blocks)]
    if invalid:
        reason = ("the network has no such block" if invalid[0] not in net.backbone.blocks
                  else "this block of the network does not output a single feature map")
        raise UsageError(f"--mix-at {invalid[0]}: {reason}", f"Choose from {', '.join(default_layers)}")
    return layers


def _mix_at_block(backbone: Any, block: str, images: Tensor, order: Tensor, ratio: float) -> Tensor:
    handle = backbone.get_output_module(block).register_forward_hook(
        lambda _module, _inputs, output: output * ratio + output[order] * (1 - ratio))
    try:
        return backbone(images)
    finally:
        handle.remove()
