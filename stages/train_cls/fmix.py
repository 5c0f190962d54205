"""FMix-CAM: the classifier on pairs of images put together along masks of low-frequency noise. Harris et al. (2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.kernels.fmix_mask import fmix_mask
from stages.train_cls.mixing import draw_share, mixed_loss, permuted


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return the losses of m x_a + (1 - m) x_b; lambda is the mask's own share, which a rounded number of pixels is."""
    drawn, (_, images, labels) = draw_share(config.alpha), permuted(batch)
    rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
    size = (images.shape[-2], images.shape[-1])
    mask = torch.from_numpy(fmix_mask(size, drawn, rng, decay=config.decay, spectrum=config.fmix_spectrum))
    mask = mask.to(images.device)
    mixed = batch["image"] * mask + images * (1 - mask)
    return mixed_loss(net, net.backbone(mixed), batch["labels"], labels, float(mask.mean()), config)
