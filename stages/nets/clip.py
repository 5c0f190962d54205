"""CLIP models of open_clip: by name, by a model-config JSON file, or from the weights of OpenAI's release."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.errors import BadData, Unavailable, UsageError
from stages.nets.clip_config import (
    OPENAI_MEAN,
    OPENAI_ONLY,
    OPENAI_STD,
    config_by_name,
    config_from_json,
    config_of_openai,
    existing,
    has_quick_twin,
    is_openais,
    names_of_sizes,
    or_tags,
)
from stages.nets.clip_resnet import ResNetTower
from stages.nets.clip_text import TextTower
from stages.nets.clip_vision import VisionTower, is_ordinary
from stages.nets.clip_watched import WatchedTower
from stages.nets.fetch import QUICK, fetch_clip_weights
from stages.nets.finite import EARLIER
from stages.nets.torchscript import gelu_of_code, is_torchscript, read_torchscript
from stages.nets.weights import COUNTER, names_a_file, read_state_dict

DEFAULT_CLIP, DEFAULT_WEIGHTS = "ViT-B-16", "openai"
_FILES = (".pt", ".pth", ".bin", ".safetensors")


Tower = VisionTower | ResNetTower | WatchedTower


@dataclass(frozen=True)
class ClipSource:
    """Which CLIP: its name, its architecture as open_clip's configs have it, and the file of its weights.

    `architecture` is None where the weights themselves tell it (OpenAI's release); `weights` is None for seeded random
    ones.
    """

    name: str
    architecture: dict[str, Any] | None
    weights: Path | None
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    notes: tuple[str, ...] = ()

    @property
    def is_resnet(self) -> bool:
        """Say whether the image tower is a ResNet."""
        if self.architecture is None and self.weights is not None:
            return "visual.layer1.0.conv1.weight" in _read(self.weights)
        return not isinstance((self.architecture or {}).get("vision_cfg", {}).get("layers", 12), int)

    @property
    def reads_many_languages(self) -> bool:
        """Say whether the text tower has a tokenizer of its own, which is not OpenAI's English one."""
        return bool((self.architecture or {}).get("text_cfg", {}).get("hf_tokenizer_name"))

    def digests(self) -> dict[str, str]:
        """Return what identifies the model: digests of its architecture and of its weights."""
        told = json.dumps(self.architecture, sort_keys=True).encode()
        weights = _sha256(self.weights) if self.weights else "random"
        return {"clip": hashlib.sha256(told).hexdigest() if self.architecture else self.name, "clip_weights": weights}


@dataclass(frozen=True)
class Clip:
    """A loaded CLIP: `scale` multiplies cosines to logits; `mean` and `std` are the input's, in [0, 1]."""

    vision: Tower
    text: TextTower
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def find_clip(clip: str | None, weights: str | None) -> ClipSource:
    """Return where the model `clip` comes from: NAME, CONFIG.json or an OpenAI .pt file; `weights` FILE or a tag.

    Without a `clip` it is the ViT-B/16 that all the papers use, with OpenAI's weights unless others are given.
    `weights` "random" is seeded random weights, for trying things out. Raises UsageError naming close names and
    tags and for a file whose tensors alone do not tell the architecture, MissingInput, BadData for a config that is
    none or for weights that are not finite, Unavailable when a tag can't be fetched.
    """
    if clip is None:
        clip, weights = DEFAULT_CLIP, weights or DEFAULT_WEIGHTS
    if clip.endswith(_FILES):
        if weights is not None:
            raise UsageError(f"--clip {clip} holds its weights", "leave --weights out, or give --clip CONFIG.json")
        file = existing(clip)
        state = _read(file)
        if not is_openais(state):
            raise _unknown_architecture(clip, state)
        return ClipSource("openai", None, file, notes=(f"the architecture is as {clip} has it",))
    is_file = clip.endswith(".json")
    name = Path(clip).stem if is_file else clip.replace("/", "-")
    architecture, preprocess = config_from_json(Path(clip)) if is_file else (config_by_name(name), {})
    mean, std = preprocess.get("mean", OPENAI_MEAN), preprocess.get("std", OPENAI_STD)
    if weights is None:
        raise UsageError("--weights is missing", f"give --weights FILE{or_tags(name)}")
    notes: tuple[str, ...] = ()
    if weights == "random":
        return ClipSource(name, architecture, None, tuple(mean), tuple(std),
                          ("--weights random: the maps mean nothing",))
    if names_a_file(weights) or weights.endswith(_FILES):
        file = existing(weights)
        gelu = _gelu_of(file)
        quick = gelu == "quick"
        if gelu == "exact" and architecture.get("quick_gelu"):
            architecture = {**architecture, "quick_gelu": False}
            notes = (f"{name} runs with the exact GELU that the code of {weights} computes",)
        if not gelu and not architecture.get("quick_gelu") and has_quick_twin(name):
            notes = (f"{name} runs with the exact GELU; weights that OpenAI trained need --clip {name}{QUICK}",)
    else:
        file, described = fetch_clip_weights(name, weights)
        mean, std = described.get("mean", mean), described.get("std", std)
        quick = bool(described.get("quick_gelu"))
    if quick and not architecture.get("quick_gelu"):
        architecture = {**architecture, "quick_gelu": True}
        notes = (f"{name} runs with the quick GELU that these weights were trained with",)
    return ClipSource(name, architecture, file, tuple(mean), tuple(std), notes)


def load_clip(source: ClipSource, *, device: torch.device, dtype: torch.dtype = torch.float32,
              round_positions: bool = False, positions: str = "bilinear") -> Clip:
    """Return the frozen model on `device`, its image tower's products in `dtype`.

    An ordinary ViT takes its position embeddings to other grids as `positions` says, a key of `POSITIONS`.
    Raises BadData for weights of another network, Unavailable for a tower that can't be opened up.
    """
    model, text_config = _built(source)
    model = model.float().eval().requires_grad_(False).to(device)
    tokenizer = _tokenizer(text_config)
    words, needed = text_config.get("vocab_size", 49408), getattr(tokenizer, "vocab_size", 0)
    if words < needed:
        raise BadData(f"its vocab_size {words} is below the {needed} of its tokenizer",
                      "give a model config of open_clip", where=source.name)
    scale = float(model.logit_scale.exp())
    if not math.isfinite(scale):
        raise BadData(f"its logit_scale {float(model.logit_scale):g} gives a scale of cosines that is not finite",
                      EARLIER, where=str(source.weights or source.name))
    return Clip(_tower(model.visual, dtype, round_positions, positions), TextTower(model, tokenizer), scale,
                source.mean, source.std)


def in_pieces(source: ClipSource, words: Sequence[str]) -> list[str]:
    """Return the words with a part, between blanks or hyphens, that the tokenizer breaks into three pieces or more.

    Common nouns are one or two pieces; more are a sign of a slip or of a word that CLIP has hardly seen.
    """
    encode = _tokenizer((source.architecture or {}).get("text_cfg", {})).encode
    return [word for word in dict.fromkeys(words) if any(len(encode(part)) > 2 for part in re.split(r"[\s-]+", word))]


def open_model(source: ClipSource) -> tuple[Any, dict[str, Any]]:
    """Return the model of open_clip itself in float32, with its config: what a training builds upon.

    Raises BadData for weights of another network.
    """
    model, _ = _built(source)
    return model.float(), source.architecture or config_of_openai(model.state_dict())


def empty_model(architecture: dict[str, Any]) -> Any:
    """Return the model of a config with seeded random weights, in float32. Raises BadData for a config that is none."""
    return _built(ClipSource("clip", architecture, None))[0].float()


def text_tokenizer(architecture: dict[str, Any]) -> Any:
    """Return the tokenizer of a model config: `tokenizer(texts)` gives ids (P, T). Raises Unavailable."""
    return _tokenizer(architecture["text_cfg"])


def _tower(visual: Any, dtype: torch.dtype, round_positions: bool, positions: str) -> Tower:
    if is_ordinary(visual):
        return VisionTower(visual, dtype=dtype, round_positions=round_positions, positions=positions)
    if dtype != torch.float32:
        raise UsageError("this image tower runs in fp32 only", "leave --precision out")
    return ResNetTower(visual) if type(visual).__name__ == "ModifiedResNet" else WatchedTower(visual)


def _tokenizer(text_config: dict[str, Any]) -> Any:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    context, name = text_config.get("context_length", 77), text_config.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=context)
    try:
        return HFTokenizer(name, context_length=context, **(text_config.get("tokenizer_kwargs") or {}))
    except ModuleNotFoundError as error:
        raise Unavailable(f"the tokenizer {name} needs the package {error.name}, which is not installed",
                          f"pip install {error.name}") from None
    except Exception as error:
        raise Unavailable(f"the tokenizer {name} can't be fetched ({type(error).__name__})",
                          f"bring the files of {name} into the cache of the Hugging Face hub") from None


def _built(source: ClipSource) -> tuple[Any, dict[str, Any]]:
    """Return the model with its weights, and the settings of its text tower."""
    from open_clip import model as models

    state = None if source.weights is None else _read(source.weights)
    settings = copy.deepcopy(source.architecture) or _openai_config(state or {}, source)
    custom = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    family = models.CustomTextCLIP if custom else models.CLIP
    if "multimodal_cfg" in settings:
        from open_clip.coca_model import CoCa
        family = CoCa
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = family(**settings)
        except Exception as error:
            why = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise BadData(f"open_clip can't build it ({why[:100]})", "give a model config of open_clip",
                          where=source.name) from None
    if state is not None:
        _load(model, state, source)
    return model, settings["text_cfg"]


def _openai_config(state: Mapping[str, Tensor], source: ClipSource) -> dict[str, Any]:
    try:
        return config_of_openai(state)
    except (KeyError, IndexError) as error:
        raise BadData(f"holds no weights of OpenAI's CLIP ({error} is not there)",
                      "give --clip NAME or CONFIG.json with --weights", where=str(source.weights)) from None


def _load(model: Any, state: dict[str, Tensor], source: ClipSource) -> None:
    state = {name: tensor for name, tensor in state.items() if name not in OPENAI_ONLY}
    target = model.state_dict()
    if "text.positional_embedding" in target and "positional_embedding" in state:
        state = {_below_text(name): tensor for name, tensor in state.items()}
    elif "positional_embedding" in target and "text.positional_embedding" in state:
        state = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    for name in sorted(set(state) | set(target)):
        ours, theirs = target.get(name), state.get(name)
        if theirs is None and name.endswith(COUNTER):
            continue
        if ours is not None and theirs is not None and ours.is_floating_point() and not theirs.is_floating_point():
            raise BadData(f"{name} holds {str(theirs.dtype).removeprefix('torch.')} numbers where {source.name} has "
                          "floating-point ones", "give weights that are not quantised", where=str(source.weights))
        if ours is None or theirs is None or ours.shape != theirs.shape:
            there = "not there" if theirs is None else f"of shape {tuple(theirs.shape)}"
            here = "has no such weight" if ours is None else f"has shape {tuple(ours.shape)}"
            raise BadData(f"weights of another network: {name} is {there}, {source.name} {here}",
                          "give --clip and --weights that fit", where=str(source.weights))
    # All that may be missing are counters of batches, which only a training reads.
    model.load_state_dict(state, strict=False)


def _gelu_of(file: Path) -> str:
    """Return which GELU the file of weights tells, "quick" or "exact"; an empty text where it tells none."""
    if is_torchscript(file) and (gelu := gelu_of_code(file)):
        return gelu
    return "quick" if is_openais(_read(file)) else ""


def _unknown_architecture(clip: str, state: dict[str, Tensor]) -> UsageError:
    """Return the error for a file of --clip whose tensors fit more than one architecture."""
    names = names_of_sizes(state)
    give = f"--clip {' or '.join(names)}, as it was trained," if names else "--clip NAME or CONFIG.json"
    return UsageError(f"--clip {clip} does not tell its architecture: tensors alone show neither which GELU (exact or "
                      "quick) they were trained with nor how wide an attention head is",
                      f"give {give} with --weights {clip}")


def _below_text(name: str) -> str:
    return name if name.startswith(("visual.", "logit_")) else f"text.{name}"


def _read(file: Path) -> dict[str, Tensor]:
    return read_torchscript(file) if is_torchscript(file) else read_state_dict(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
            hashlib.sha256(opened.read()).hexdigest())
