"""The tiny CLIP of the reference values: its model config, inferred from its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

HEAD_WIDTH = 32  # of the image tower; the text tower has two heads. Neither can be inferred from the tensors.


def build_vision_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's config of an image tower with the tensors `state`."""
    patch_size = state["conv1.weight"].shape[-1]
    side = isqrt(len(state["positional_embedding"]) - 1)
    return {"image_size": patch_size * side, "layers": _count_layers(state), "width": state["class_embedding"].shape[0],
            "patch_size": patch_size, "head_width": HEAD_WIDTH}


def build_clip_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's config of a CLIP with the tensors `state`."""
    vision = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}
    context_length, (vocab_size, width) = len(state["positional_embedding"]), state["token_embedding.weight"].shape
    return {"embed_dim": state["text_projection"].shape[1], "quick_gelu": True,
            "vision_cfg": build_vision_config(vision),
            "text_cfg": {"context_length": context_length, "vocab_size": vocab_size, "width": width, "heads": 2,
                         "layers": _count_layers(text)}}


def list_image_sizes(values: Mapping[str, Any]) -> list[str]:
    """Return the image sizes in the keys of reference values, such as "40x56" for `image_40x56`."""
    sizes = [name.removeprefix("image_") for name in values if re.fullmatch(r"image_\d+(x\d+)?", name)]
    assert sizes
    return sizes


def _count_layers(state: Mapping[str, Any]) -> int:
    matches = (re.match(r"transformer\.resblocks\.(\d+)\.", name) for name in state)
    return 1 + max(int(match[1]) for match in matches if match)
