"""Train on mixed samples: the functions that mixup, FMix and manifold mixup share.

The loss is that of "On the use of mixed-sample augmentation and sub-categories", eq. 2: multi-label classification on
both label sets, plus lambda_ent times the self-entropy of the predictions, plus lambda_con times the concentration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train_cls.regularisers import concentration, self_entropy


def draw_mixing_ratio(alpha: float) -> float:
    """Draw lambda from Beta(alpha, alpha) with torch's generator, which the training loop seeds at every step."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def mixed_loss(net: nn.Module, features: Tensor, labels: Tensor, other_labels: Tensor, ratio: float,
               config: Any) -> dict[str, Any]:
    """Return {"loss", "classification", "entropy", "concentration", "predicted"} of mixed samples.

    `features` (B, D, h, w) are the final feature maps. `labels` (B, C) are those of the images that make up `ratio` of
    each sample, `other_labels` those of the rest. The predictions are scored with the labels of the larger part.
    """
    logits, first, second = net.forward_head(features).float(), labels.float(), other_labels.float()
    losses = {"classification": ratio * F.multilabel_soft_margin_loss(logits, first)
              + (1 - ratio) * F.multilabel_soft_margin_loss(logits, second)}
    total = losses["classification"]
    if config.lambda_ent:
        losses["entropy"] = self_entropy(logits, config.entropy)
        total = total + config.lambda_ent * losses["entropy"]
    if config.lambda_con:
        cams = net.classifier(features)
        losses["concentration"] = (ratio * concentration(cams, first, config.concentration)
                                   + (1 - ratio) * concentration(cams, second, config.concentration))
        total = total + config.lambda_con * losses["concentration"]
    return {"loss": total, **losses, "predicted": (logits, labels if ratio >= 0.5 else other_labels)}


def permute_batch(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return a random permutation (B,) of the batch, with the images and the labels in that order."""
    order = torch.randperm(len(batch["image"])).to(batch["image"].device)
    return order, batch["image"][order], batch["labels"][order]
