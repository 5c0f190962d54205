"""Mixup-CAM: the classifier on convex combinations of images. Zhang et al. (ICLR 2018); Chang et al. (BMVC 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stages.train_cls.mixing import draw_share, mixed_loss, permuted


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return the losses of lambda x_a + (1 - lambda) x_b, one lambda and one order a batch."""
    share, (_, images, labels) = draw_share(config.alpha), permuted(batch)
    mixed = batch["image"] * share + images * (1 - share)
    return mixed_loss(net, net.backbone(mixed), batch["labels"], labels, share, config)
