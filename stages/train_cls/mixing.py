"""Training on mixed samples: what mixup, FMix and manifold mixup share.

The loss of "On the use of mixed-sample augmentation and sub-categories" eq. 2: multi-label classification on both
label sets, plus lambda_ent times the self-entropy of the predictions, plus lambda_con times the concentration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train_cls.regularisers import concentration, self_entropy


def draw_share(alpha: float) -> float:
    """Return lambda from Beta(alpha, alpha), by torch's generator: a function of the step alone."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def mixed_loss(net: nn.Module, features: Tensor, labels: Tensor, other: Tensor, share: float,
               config: Any) -> dict[str, Any]:
    """Return {"loss", "classification", "entropy", "concentration", "predicted"} of mixed samples.

    `features` (B, D, h, w) are the final maps, `labels` (B, C) of the images that make up `share` of each sample,
    `other` those of the rest. What is predicted is held against the labels of the larger share.
    """
    logits, first, second = net.from_features(features).float(), labels.float(), other.float()
    told = {"classification": share * F.multilabel_soft_margin_loss(logits, first)
            + (1 - share) * F.multilabel_soft_margin_loss(logits, second)}
    total = told["classification"]
    if config.lambda_ent:
        told["entropy"] = self_entropy(logits, config.entropy)
        total = total + config.lambda_ent * told["entropy"]
    if config.lambda_con:
        maps = net.classifier(features)
        told["concentration"] = (share * concentration(maps, first, config.concentration)
                                 + (1 - share) * concentration(maps, second, config.concentration))
        total = total + config.lambda_con * told["concentration"]
    return {"loss": total, **told, "predicted": (logits, labels if share >= 0.5 else other)}


def permuted(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (order (B,), images in that order, labels in that order)."""
    order = torch.randperm(len(batch["image"])).to(batch["image"].device)
    return order, batch["image"][order], batch["labels"][order]
