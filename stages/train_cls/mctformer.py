"""Compute the losses of MCTformer: of class tokens, of a patch classifier, and (plus) a contrast of class tokens.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022), eq. 1 and 7, and
"MCTformer+" (TPAMI 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.precision import promote_to_fp32


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return {"loss", "tokens", "predicted"}, with V2 and plus also "patches", with plus also "contrast".

    "loss" is the multi-label soft margin loss of the class tokens' logits, plus that of the patch logits, plus a
    weighted contrastive loss of the class tokens.
    """
    outputs = net.forward_outputs(batch["image"])
    logits = promote_to_fp32(outputs.class_logits)
    labels = batch["labels"].to(logits.dtype)
    losses = {"tokens": F.multilabel_soft_margin_loss(logits, labels)}
    total = losses["tokens"]
    if outputs.patch_logits is not None:
        losses["patches"] = F.multilabel_soft_margin_loss(promote_to_fp32(outputs.patch_logits), labels)
        total = total + losses["patches"]
    if net.version == "plus" and config.contrast:
        tokens = promote_to_fp32(outputs.class_tokens[-config.contrast_layers:])
        losses["contrast"] = token_contrast_loss(tokens, labels)
        total = total + config.contrast * losses["contrast"]
    return {"loss": total, **losses, "predicted": (outputs.class_logits, labels)}


def token_contrast_loss(tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of telling each present class's token from those of all other classes.

    `tokens` (L, B, C, D) of L layers are compared by cosine similarity, each with all C tokens of its layer and image;
    the target is the token itself. The loss is the mean over layers, over the classes present in `labels` (B, C), and
    over images (one without a class counts as 0). There is no temperature: for orthogonal tokens the loss is
    ln(1 + (C - 1) / e). The form is that of public code built on MCTformer+, whose paper was not available.
    """
    unit_tokens = F.normalize(tokens, dim=-1)
    log_likelihood = (unit_tokens @ unit_tokens.mT).log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    per_image = (log_likelihood.mean(0) * labels).sum(-1) / labels.sum(-1).clamp(min=1)
    return -per_image.mean()
