"""CLIP architectures: open_clip model configs by name, from a JSON file, or inferred from weights."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.errors import BadData, MissingInput, UsageError
from stages.nets.pretrained import QUICKGELU_SUFFIX

# Numbers that only OpenAI's released files hold among the weights.
OPENAI_EXTRA_KEYS = ("input_resolution", "context_length", "vocab_size")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
SEE_CONFIGS_REMEDY = "Compare the file with the model configs of open_clip"


def require_file(file: str) -> Path:
    """Return the path of an existing file. Raises MissingInput for another."""
    if not Path(file).is_file():
        raise MissingInput("this is a folder, not a file" if Path(file).is_dir() else "the file does not exist",
                           "Check the path given to --clip or --weights", where=file)
    return Path(file)


def load_config_by_name(name: str) -> dict[str, Any]:
    """Return the open_clip model config of this name. Raises UsageError that suggests similar names."""
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        similar_names = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.4)
        raise UsageError(f"--clip {name}: open_clip has no model of this name",
                         f"Use a similar name such as {', '.join(similar_names)}" if similar_names else
                         "Use the name of an open_clip model, a CONFIG.json or an OpenAI .pt file")
    return config


def load_config_from_json(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model config in a JSON file, and the config of its input, which is {} when the file has none.

    Raises MissingInput, and BadData for a file that is not a valid model config.
    """
    try:
        content = json.loads(require_file(str(file)).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid JSON ({error})", SEE_CONFIGS_REMEDY, where=str(file)) from None
    architecture = content.get("model_cfg", content) if isinstance(content, dict) else {}
    if not isinstance(architecture, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(architecture):
        raise BadData("the file is not a model config: it needs embed_dim, vision_cfg and text_cfg",
                      SEE_CONFIGS_REMEDY, where=str(file))
    preprocess = content.get("preprocess_cfg", {})
    parts = {**architecture, "preprocess_cfg": preprocess}
    invalid = [name for name in ("vision_cfg", "text_cfg", "preprocess_cfg") if not isinstance(parts[name], dict)]
    if not invalid:
        invalid = [name for name in ("mean", "std")
                   if not _is_channel_statistic(preprocess.get(name, OPENAI_STD), name)]
        invalid += _find_invalid_sizes(architecture["vision_cfg"])
    if invalid:
        raise BadData(f"the file is not a model config: the value of {invalid[0]} is invalid", SEE_CONFIGS_REMEDY,
                      where=str(file))
    return architecture, preprocess


def _is_channel_statistic(value: Any, name: str) -> bool:
    """Return whether `value` is a valid mean or standard deviation (`name`: "mean" or "std") of three channels."""
    is_numeric = isinstance(value, (list, tuple)) and all(type(number) in (int, float) for number in value)
    return is_numeric and len(value) == 3 and all(
        math.isfinite(number) and (number > 0 or name == "mean") for number in value)


def _find_invalid_sizes(vision: dict[str, Any]) -> list[str]:
    """Return the settings with which open_clip would build a tower without blocks, or with non-square patches."""
    layers, patch_size = vision.get("layers", 12), vision.get("patch_size", 16)
    depths = layers if isinstance(layers, list) else [layers]
    sides = patch_size if isinstance(patch_size, list) else [patch_size]
    invalid = ["layers"] if not all(type(depth) is int and depth > 0 for depth in depths) else []
    if patch_size is not None and not (
            all(type(side) is int and side > 0 for side in sides) and len(set(sides)) == 1):
        invalid.append("patch_size")
    return invalid


def is_openai_release(state: Mapping[str, Tensor]) -> bool:
    """Return whether weights are from OpenAI's release, so that the GELU is the quick one and heads have 64 channels.

    The released TorchScript files, and state dicts saved from them, contain the numbers `OPENAI_EXTRA_KEYS`.
    """
    return set(OPENAI_EXTRA_KEYS) <= set(state)


def infer_openai_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the model config of a CLIP released by OpenAI, with a ViT or a ResNet, from its weights.

    Raises KeyError naming a missing tensor.
    """
    text = _infer_text_sizes(state)
    is_resnet = "visual.layer1.0.conv1.weight" in state
    vision = _infer_resnet_sizes(state) if is_resnet else _infer_vit_sizes(state)
    return {"embed_dim": state["text_projection"].shape[1], "quick_gelu": True, "vision_cfg": vision,
            "text_cfg": {**text, "heads": text["width"] // 64}}


def _infer_text_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"context_length": len(state["positional_embedding"]), "vocab_size": len(state["token_embedding.weight"]),
            "width": len(state["ln_final.weight"]), "layers": _count_blocks(state, "transformer.resblocks.")}


def _infer_vit_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    kernel_shape = state["visual.conv1.weight"].shape
    width, patch_size = kernel_shape[0], kernel_shape[-1]
    num_patches = len(state["visual.positional_embedding"]) - 1
    return {"image_size": round(num_patches**0.5) * patch_size, "width": width, "patch_size": patch_size,
            "layers": _count_blocks(state, "visual.transformer.resblocks.")}


def _infer_resnet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    num_cells = len(state["visual.attnpool.positional_embedding"]) - 1
    return {"image_size": 32 * round(num_cells**0.5), "width": state["visual.layer1.0.conv1.weight"].shape[0],
            "patch_size": None, "layers": [_count_blocks(state, f"visual.layer{stage}.") for stage in (1, 2, 3, 4)]}


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.split(".")[prefix.count(".")] for name in state if name.startswith(prefix)})


def find_models_by_size(state: Mapping[str, Tensor]) -> list[str]:
    """Return the open_clip models whose sizes fit these weights of a standard CLIP with a ViT; [] for other weights."""
    import open_clip

    state = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    try:
        sizes = {"vision_cfg": _infer_vit_sizes(state), "text_cfg": _infer_text_sizes(state)}
        embed_dim = state["text_projection"].shape[1]
    except (KeyError, IndexError):
        return []
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if "timm_model_name" in config["vision_cfg"] or "hf_model_name" in config["text_cfg"]:
            continue
        values = {part: {**defaults, **config[part]} for part, defaults in _OPEN_CLIP_DEFAULTS.items()}
        if config["embed_dim"] == embed_dim and all(
                values[part].get(key) == size for part in sizes for key, size in sizes[part].items()):
            names.append(name)
    return names


# The values that open_clip uses when a config omits them.
_OPEN_CLIP_DEFAULTS: dict[str, dict[str, Any]] = {
    "vision_cfg": {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "layers": 12}}


def has_quickgelu_variant(name: str) -> bool:
    """Return whether open_clip has a variant of the model with the quick GELU."""
    import open_clip

    return f"{name}{QUICKGELU_SUFFIX}" in open_clip.list_models()


def describe_tag_choices(name: str) -> str:
    """Return the end of a sentence that lists open_clip's tags of weights for a model, or "" when it has none."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return f" or one of the tags {', '.join(tags[:6])}" if tags else ""
