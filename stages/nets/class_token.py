"""The class token of a vision transformer of timm, which its own classifier reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stages.nets.class_tokens import ClassTokenBackbone


def has_class_token(net: Any) -> bool:
    """Return whether a network of timm, also as a backbone of ours, has one class token.

    MCTformer has one for each class instead.
    """
    if isinstance(net, ClassTokenBackbone):
        return False
    token = getattr(getattr(net, "model", net), "cls_token", None)
    return isinstance(token, Tensor) and token.ndim == 3 and token.shape[1] == 1


def class_token(net: Any, images: Tensor) -> Tensor:
    """Return the class token (B, D) of images (B, 3, H, W) behind the final norm.

    As timm's `forward_head(pre_logits=True)` pools it: a ViT made for average pooling has its norm behind the pooling.
    A distilled one has a second token, which is not looked at.
    """
    model = getattr(net, "model", net)
    padded = net.pad_images(images) if hasattr(net, "pad_images") else images
    token = model.forward_features(padded)[:, 0]
    norm = getattr(model, "fc_norm", None)
    return token if norm is None or isinstance(norm, nn.Identity) else norm(token)
