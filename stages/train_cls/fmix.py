"""Train the classifier on pairs of images combined by masks of low-frequency noise (FMix-CAM). Harris et al. (2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.kernels.fmix import sample_fmix_mask
from stages.train_cls.mixing import draw_mixing_ratio, mixed_loss, permute_batch


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return the losses of m x_a + (1 - m) x_b, with the mean of the mask m as lambda.

    It differs from the lambda that was drawn, as the mask has a whole number of pixels.
    """
    ratio, (_, images, labels) = draw_mixing_ratio(config.alpha), permute_batch(batch)
    rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
    size = (images.shape[-2], images.shape[-1])
    mask = torch.from_numpy(sample_fmix_mask(size, ratio, rng, decay=config.decay, spectrum=config.fmix_spectrum))
    mask = mask.to(images.device)
    mixed = batch["image"] * mask + images * (1 - mask)
    return mixed_loss(net, net.backbone(mixed), batch["labels"], labels, float(mask.mean()), config)
