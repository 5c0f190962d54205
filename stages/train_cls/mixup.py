"""Train the classifier on convex combinations of images (Mixup-CAM).

Zhang et al. (ICLR 2018); Chang et al. (BMVC 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stages.train_cls.mixing import draw_mixing_ratio, mixed_loss, permute_batch


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return the losses of lambda x_a + (1 - lambda) x_b, with one lambda and one permutation per batch."""
    ratio, (_, images, labels) = draw_mixing_ratio(config.alpha), permute_batch(batch)
    mixed = batch["image"] * ratio + images * (1 - ratio)
    return mixed_loss(net, net.backbone(mixed), batch["labels"], labels, ratio, config)
