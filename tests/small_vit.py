"""Small vision transformers of any size registered with timm, and the MCTformers of reference values."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import numpy as np
import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.mctformer import MCTformer
from stages.nets.weights import ImportReport, import_weights

STATE = "state/"
HEADS = 3


def small_vit(width: int = 48, depth: int = 4, heads: int = HEADS, side: int = 64, pool: str = "token") -> str:
    """Register a plain ViT with patches of 16 pixels and positions for images of `side` pixels; return its name.

    With `pool` "avg" the final norm comes after the pooling, as `fc_norm`.
    """
    name = f"vit_small_test{width}x{depth}x{heads}_{pool}_patch16_{side}"
    if not timm.is_model(name):
        def build(pretrained: bool = False, **options: Any) -> nn.Module:
            sizes = {"embed_dim": width, "depth": depth, "num_heads": heads, "img_size": side, "global_pool": pool,
                     **options}
            return timm.create_model("vit_tiny_patch16_224", pretrained=pretrained, **sizes)

        build.__name__, build.__module__ = name, "timm.models.vision_transformer"
        register_model(build)
    return f"timm:{name}"


def count_heads(values: Mapping[str, np.ndarray]) -> int:
    """Return the number of heads of a reference network: the entry `heads`, or else 3 as in the existing files."""
    width = int(np.asarray(values[f"{STATE}cls_token"]).shape[-1])
    return int(values.get("heads", HEADS if width % HEADS == 0 else width // 16))


def extract_state(values: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the weights in reference values, under their released names."""
    return {name.removeprefix(STATE): torch.from_numpy(np.asarray(array)).float() for name, array in values.items()
            if name.startswith(STATE)}


def build_reference_mctformer(version: str, values: Mapping[str, np.ndarray]) -> tuple[MCTformer, ImportReport]:
    """Build the MCTformer of reference values in evaluation mode; return it with the report of the weight import."""
    state = extract_state(values)
    num_classes, width = state["cls_token"].shape[1:]
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    num_patches = (
        state["pos_embed_pat"].shape[1] if "pos_embed_pat" in state else state["pos_embed"].shape[1] - num_classes)
    name = small_vit(width, depth, count_heads(values), 16 * isqrt(num_patches))
    net = MCTformer(ClassTokenBackbone(name, num_classes), version).eval()
    return net, import_weights(net, state)
