"""Which architecture a CLIP has: configs of open_clip, by name or from a JSON file."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, UsageError
from stages.nets.fetch import QUICK

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


def has_quick_twin(name: str) -> bool:
    """Say whether open_clip knows a twin of the model with the quick GELU."""
    import open_clip

    return f"{name}{QUICK}" in open_clip.list_models()


def or_tags(name: str) -> str:
    """Return the end of a sentence that names the tags of weights which open_clip knows for a model."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return f" or one of {', '.join(tags[:6])}" if tags else ""
