"""The tiny CLIP of the reference values: how large it is, as its tensors tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

HEAD_WIDTH = 32  # of the image tower; the text tower has two heads: no tensor tells either


def vision_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's settings of an image tower with the tensors `state`."""
    patch = state["conv1.weight"].shape[-1]
    side = isqrt(len(state["positional_embedding"]) - 1)
    return {"image_size": patch * side, "layers": _layers(state), "width": state["class_embedding"].shape[0],
            "patch_size": patch, "head_width": HEAD_WIDTH}


def clip_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return open_clip's settings of a CLIP with the tensors `state`."""
    vision = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    length, (words, width) = len(state["positional_embedding"]), state["token_embedding.weight"].shape
    return {"embed_dim": state["text_projection"].shape[1], "quick_gelu": True, "vision_cfg": vision_config(vision),
            "text_cfg": {"context_length": length, "vocab_size": words, "width": width, "heads": 2,
                         "layers": _layers({name: state[name] for name in state if not name.startswith("visual.")})}}


def sizes_of(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the image sizes among the values, from keys such as `image_40x56`."""
    found = [name.removeprefix("image_") for name in values if re.fullmatch(r"image_\d+(x\d+)?", name)]
    assert found
    return found


def _layers(state: Mapping[str, Any]) -> int:
    return 1 + max(int(found[1]) for name in state if (found := re.match(r"transformer\.resblocks\.(\d+)\.", name)))
