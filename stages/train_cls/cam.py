"""Compute the loss of the plain classifier: global average pooling and a linear layer without bias.

The CAM of a class is that layer applied to each cell of the last feature map.

Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), with the multi-label loss
that PSA and IRN use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return {"loss", "predicted"}: the multi-label soft margin loss of `batch["labels"]` (B, C) in {0, 1}.

    It is the binary cross entropy of the sigmoid, averaged over classes and images (PSA and IRN, released code).
    """
    logits, labels = net(batch["image"]).float(), batch["labels"].to(torch.float32)
    return {"loss": F.multilabel_soft_margin_loss(logits, labels), "predicted": (logits, labels)}
