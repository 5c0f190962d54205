"""Which architecture a CLIP has: configs of open_clip, by name or from a JSON file."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.errors import BadData, MissingInput, UsageError
from stages.nets.fetch import QUICK

# Numbers that OpenAI's archives hold among the weights, and that no other CLIP has.
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def existing(file: str) -> Path:
    """Return the path of a file. Raises MissingInput."""
    if not Path(file).is_file():
        raise MissingInput("is a folder, a file is needed" if Path(file).is_dir() else "no such file",
                           "check the path", where=file)
    return Path(file)


def config_by_name(name: str) -> dict[str, Any]:
    """Return the config that open_clip has by this name. Raises UsageError with close names."""
    import open_clip

    found = open_clip.get_model_config(name)
    if found is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.4)
        raise UsageError(f"--clip {name}: no such model", f"did you mean {', '.join(close)}?" if close else
                         "give a name of open_clip, a CONFIG.json or an OpenAI .pt file")
    return found


def config_from_json(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config in a file, and that of its input where the file has one. Raises MissingInput, BadData."""
    try:
        told = json.loads(existing(str(file)).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadData(f"is no JSON ({error})", where=str(file)) from None
    architecture = told.get("model_cfg", told) if isinstance(told, dict) else {}
    if not isinstance(architecture, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(architecture):
        raise BadData("is no model config: embed_dim, vision_cfg and text_cfg are needed",
                      "see the model configs of open_clip", where=str(file))
    preprocess = told.get("preprocess_cfg", {})
    parts = {**architecture, "preprocess_cfg": preprocess}
    wrong = [name for name in ("vision_cfg", "text_cfg", "preprocess_cfg") if not isinstance(parts[name], dict)]
    if not wrong:
        wrong = [name for name in ("mean", "std") if not _of_channels(preprocess.get(name, OPENAI_STD), name)]
        wrong += _wrong_sizes(architecture["vision_cfg"])
    if wrong:
        raise BadData(f"is no model config: its {wrong[0]} makes no sense", "see the model configs of open_clip",
                      where=str(file))
    return architecture, preprocess


def _of_channels(value: Any, name: str) -> bool:
    """Say whether this is a mean, or a standard deviation, of three channels."""
    numbers = isinstance(value, (list, tuple)) and all(type(one) in (int, float) for one in value)
    return numbers and len(value) == 3 and all(math.isfinite(one) and (one > 0 or name == "mean") for one in value)


def _wrong_sizes(vision: dict[str, Any]) -> list[str]:
    """Return the settings with which open_clip builds a tower without a block, or with patches that are no squares."""
    layers, patch = vision.get("layers", 12), vision.get("patch_size", 16)
    depths = layers if isinstance(layers, list) else [layers]
    sides = patch if isinstance(patch, list) else [patch]
    wrong = ["layers"] if not all(type(one) is int and one > 0 for one in depths) else []
    if patch is not None and not (all(type(one) is int and one > 0 for one in sides) and len(set(sides)) == 1):
        wrong.append("patch_size")
    return wrong


def is_openais(state: Mapping[str, Tensor]) -> bool:
    """Say whether weights come from OpenAI's release: then the GELU is the quick one and heads are 64 channels wide.

    A release as TorchScript, and the state dict of one, also holds the numbers `OPENAI_ONLY`.
    """
    return set(OPENAI_ONLY) <= set(state)


def config_of_openai(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the model config of the CLIP of OpenAI's release, a ViT or a ResNet, that has the weights `state`.

    Raises KeyError naming a tensor that is not there.
    """
    text = _text_sizes(state)
    vision = _resnet_sizes(state) if "visual.layer1.0.conv1.weight" in state else _vit_sizes(state)
    return {"embed_dim": state["text_projection"].shape[1], "quick_gelu": True, "vision_cfg": vision,
            "text_cfg": {**text, "heads": text["width"] // 64}}


def _text_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"context_length": len(state["positional_embedding"]), "vocab_size": len(state["token_embedding.weight"]),
            "width": len(state["ln_final.weight"]), "layers": _count_blocks(state, "transformer.resblocks.")}


def _vit_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    patch = state["visual.conv1.weight"].shape
    cells = len(state["visual.positional_embedding"]) - 1
    return {"image_size": round(cells**0.5) * patch[-1], "width": patch[0], "patch_size": patch[-1],
            "layers": _count_blocks(state, "visual.transformer.resblocks.")}


def _resnet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    cells = len(state["visual.attnpool.positional_embedding"]) - 1
    return {"image_size": 32 * round(cells**0.5), "width": state["visual.layer1.0.conv1.weight"].shape[0],
            "patch_size": None, "layers": [_count_blocks(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]}


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[prefix.count(".")] for name in state if name.startswith(prefix)})


def names_of_sizes(state: Mapping[str, Tensor]) -> list[str]:
    """Return the models of open_clip whose sizes the weights of an ordinary CLIP with a ViT fit; none for others."""
    import open_clip

    plain = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    try:
        sizes = {"vision_cfg": _vit_sizes(plain), "text_cfg": _text_sizes(plain)}
        embedding = plain["text_projection"].shape[1]
    except (KeyError, IndexError):
        return []
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if "timm_model_name" in config["vision_cfg"] or "hf_model_name" in config["text_cfg"]:
            continue
        values = {part: {**defaults, **config[part]} for part, defaults in _DEFAULTS.items()}
        if config["embed_dim"] == embedding and all(
                values[part].get(key) == size for part in sizes for key, size in sizes[part].items()):
            names.append(name)
    return names


# Of open_clip, where a config leaves them out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_cfg": {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "layers": 12}}


def has_quick_twin(name: str) -> bool:
    """Say whether open_clip knows a twin of the model with the quick GELU."""
    import open_clip

    return f"{name}{QUICK}" in open_clip.list_models()


def or_tags(name: str) -> str:
    """Return the end of a sentence that names the tags of weights which open_clip knows for a model."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return f" or one of {', '.join(tags[:6])}" if tags else ""
