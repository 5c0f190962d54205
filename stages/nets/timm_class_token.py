"""The class token of a timm vision transformer, which its classifier reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stages.nets.class_token_backbone import ClassTokenBackbone


def has_class_token(net: Any) -> bool:
    """Return whether a timm network, or a backbone built on one, has a single class token.

    MCTformer has one per class instead.
    """
    if isinstance(net, ClassTokenBackbone):
        return False
    token = getattr(getattr(net, "model", net), "cls_token", None)
    return isinstance(token, Tensor) and token.ndim == 3 and token.shape[1] == 1


def compute_class_token(net: Any, images: Tensor) -> Tensor:
    """Return the class token (B, D) of images (B, 3, H, W) after the final norm.

    It equals timm's `forward_head(pre_logits=True)`: a ViT built for average pooling has its norm after the pooling.
    The second token of a distilled ViT is ignored.
    """
    model = getattr(net, "model", net)
    padded = net.pad_images(images) if hasattr(net, "pad_images") else images
    token = model.forward_features(padded)[:, 0]
    norm = getattr(model, "fc_norm", None)
    return token if norm is None or isinstance(norm, nn.Identity) else norm(token)
