"""MCTformer: class tokens that learn their classes, beside a patch classifier; in plus, tokens kept apart.

Xu et al., "Multi-class Token Transformer for Weakly Supervised Semantic Segmentation" (CVPR 2022), eq. 1 and 7, and
"MCTformer+" (TPAMI 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.precision import at_least_fp32


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Return {"loss", "tokens", "predicted"}, with V2 and plus also "patches", with plus also "contrast".

    The multi-label soft margin of the class tokens' logits, plus that of the patches' logits, plus a weight times
    the contrast of the class tokens.
    """
    found = net.outputs(batch["image"])
    logits = at_least_fp32(found.class_logits)
    labels = batch["labels"].to(logits.dtype)
    told = {"tokens": F.multilabel_soft_margin_loss(logits, labels)}
    total = told["tokens"]
    if found.patch_logits is not None:
        told["patches"] = F.multilabel_soft_margin_loss(at_least_fp32(found.patch_logits), labels)
        total = total + told["patches"]
    if net.version == "plus" and config.contrast:
        told["contrast"] = token_contrast(at_least_fp32(found.class_tokens[-config.contrast_layers:]), labels)
        total = total + config.contrast * told["contrast"]
    return {"loss": total, **told, "predicted": (found.class_logits, labels)}


def token_contrast(tokens: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of telling each present class's token from those of all other classes.

    `tokens` (L, B, C, D) of L layers are compared by cosine, each with all C of its layer and image; the right answer
    is itself. Mean over layers, over the classes present in `labels` (B, C), and over images (one without a class
    counts as 0). The similarity is the bare cosine, without a temperature: with all tokens at right angles it is
    ln(1 + (C - 1) / e). Its form is that of public code built on MCTformer+; its paper was not at hand.
    """
    units = F.normalize(tokens, dim=-1)
    likelihood = (units @ units.mT).log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    each = (likelihood.mean(0) * labels).sum(-1) / labels.sum(-1).clamp(min=1)
    return -each.mean()
