"""Find and load CLIP models: by open_clip name, by a model-config JSON file, or from weights released by OpenAI."""

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
    OPENAI_EXTRA_KEYS,
    OPENAI_MEAN,
    OPENAI_STD,
    describe_tag_choices,
    find_models_by_size,
    has_quickgelu_variant,
    infer_openai_config,
    is_openai_release,
    load_config_by_name,
    load_config_from_json,
    require_file,
)
from stages.nets.clip_hooked import HookedTower
from stages.nets.clip_resnet import ResNetTower
from stages.nets.clip_text import TextTower
from stages.nets.clip_vision import VisionTower, is_plain_vit
from stages.nets.pretrained import QUICKGELU_SUFFIX, fetch_clip_weights
from stages.nets.torchscript import detect_gelu, is_torchscript, read_torchscript
from stages.nets.weight_checks import NOT_FINITE_REMEDY
from stages.nets.weights import NUM_BATCHES_TRACKED, is_weights_path, read_state_dict

DEFAULT_CLIP, DEFAULT_WEIGHTS = "ViT-B-16", "openai"
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")

ClipImageTower = VisionTower | ResNetTower | HookedTower


@dataclass(frozen=True)
class ClipSource:
    """Where a CLIP model comes from: its name, its architecture as an open_clip model config, and its weights file.

    `architecture` is None when it is inferred from the weights (OpenAI's release). `weights` is None for seeded random
    weights. `notes` are sentences about the choice, for the user.
    """

    name: str
    architecture: dict[str, Any] | None
    weights: Path | None
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    notes: tuple[str, ...] = ()

    @property
    def is_resnet(self) -> bool:
        """Return whether the image tower is a ResNet."""
        if self.architecture is None and self.weights is not None:
            return "visual.layer1.0.conv1.weight" in _read_weights(self.weights)
        return not isinstance((self.architecture or {}).get("vision_cfg", {}).get("layers", 12), int)

    @property
    def is_multilingual(self) -> bool:
        """Return whether the text tower uses its own tokenizer instead of OpenAI's, which knows English only."""
        return bool((self.architecture or {}).get("text_cfg", {}).get("hf_tokenizer_name"))

    def compute_digests(self) -> dict[str, str]:
        """Return the digests of the architecture and of the weights, which identify the model in the provenance."""
        architecture = json.dumps(self.architecture, sort_keys=True).encode()
        return {"clip": hashlib.sha256(architecture).hexdigest() if self.architecture else self.name,
                "clip_weights": _hash_file(self.weights) if self.weights else "random"}


@dataclass(frozen=True)
class ClipModel:
    """A loaded CLIP model: cosines times `logit_scale` are logits; `mean` and `std` are those of inputs in [0, 1]."""

    vision: ClipImageTower
    text: TextTower
    logit_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def find_clip(clip: str | None, weights: str | None) -> ClipSource:
    """Find the CLIP model that --clip (NAME, CONFIG.json or an OpenAI .pt file) and --weights (FILE or a tag) name.

    Without `clip` it is the ViT-B/16 that all the papers use, with OpenAI's weights unless others are given. The
    `weights` "random" are seeded random weights, for trying things out. Raises UsageError, naming similar names or the
    tags, and for a file whose tensors alone do not determine the architecture; MissingInput; BadData for an invalid
    config or weights that are not finite; Unavailable when the weights of a tag cannot be downloaded.
    """
    if clip is None:
        clip, weights = DEFAULT_CLIP, weights or DEFAULT_WEIGHTS
    if clip.endswith(_WEIGHT_SUFFIXES):
        if weights is not None:
            raise UsageError(f"--clip {clip} already contains weights, but --weights is given too",
                             "Omit --weights, or use --clip CONFIG.json with --weights")
        file = require_file(clip)
        state = _read_weights(file)
        if not is_openai_release(state):
            raise _build_ambiguity_error(clip, state)
        return ClipSource("openai", None, file, notes=(f"The architecture of CLIP is inferred from {clip}.",))
    is_file = clip.endswith(".json")
    name = Path(clip).stem if is_file else clip.replace("/", "-")
    architecture, preprocess = load_config_from_json(Path(clip)) if is_file else (load_config_by_name(name), {})
    mean, std = preprocess.get("mean", OPENAI_MEAN), preprocess.get("std", OPENAI_STD)
    if weights is None:
        raise UsageError(f"--clip {clip} needs --weights", f"Use --weights FILE{describe_tag_choices(name)}")
    notes: tuple[str, ...] = ()
    if weights == "random":
        return ClipSource(name, architecture, None, tuple(mean), tuple(std),
                          ("The weights are random (--weights random): the results are meaningless.",))
    if is_weights_path(weights) or weights.endswith(_WEIGHT_SUFFIXES):
        file = require_file(weights)
        gelu = _infer_gelu(file)
        needs_quick_gelu = gelu == "quick"
        if gelu == "exact" and architecture.get("quick_gelu"):
            architecture = {**architecture, "quick_gelu": False}
            notes = (f"{name} runs with the exact GELU, which the code in {weights} uses.",)
        if not gelu and not architecture.get("quick_gelu") and has_quickgelu_variant(name):
            notes = (f"{name} runs with the exact GELU. "
                     f"Weights trained by OpenAI need --clip {name}{QUICKGELU_SUFFIX}.",)
    else:
        file, tag_config = fetch_clip_weights(name, weights)
        mean, std = tag_config.get("mean", mean), tag_config.get("std", std)
        needs_quick_gelu = bool(tag_config.get("quick_gelu"))
    if needs_quick_gelu and not architecture.get("quick_gelu"):
        architecture = {**architecture, "quick_gelu": True}
        notes = (f"{name} runs with the quick GELU, with which these weights were trained.",)
    return ClipSource(name, architecture, file, tuple(mean), tuple(std), notes)


def load_clip(source: ClipSource, *, device: torch.device, dtype: torch.dtype = torch.float32,
              round_positions: bool = False, positions: str = "bilinear") -> ClipModel:
    """Load the frozen model on `device`; the image tower computes its matrix products in `dtype`.

    `positions`, a key of `POSITION_RESIZE_MODES`, is how a plain ViT resizes its position embeddings to other grids.
    Raises BadData for weights of another network, Unavailable for an image tower whose layers cannot be accessed.
    """
    model, text_config = _build_model(source)
    model = model.float().eval().requires_grad_(False).to(device)
    tokenizer = _load_tokenizer(text_config)
    vocab_size, needed_size = text_config.get("vocab_size", 49408), getattr(tokenizer, "vocab_size", 0)
    if vocab_size < needed_size:
        raise BadData(f"the vocab_size of the model config, {vocab_size}, is smaller than the {needed_size} entries of "
                      "its tokenizer", "Use --clip with a model config of open_clip", where=source.name)
    logit_scale = float(model.logit_scale.exp())
    if not math.isfinite(logit_scale):
        raise BadData(f"the exponential of its logit_scale {float(model.logit_scale):g}, which scales the cosines, "
                      "is not finite", NOT_FINITE_REMEDY, where=str(source.weights or source.name))
    tower = _open_image_tower(model.visual, dtype, round_positions, positions)
    return ClipModel(tower, TextTower(model, tokenizer), logit_scale, source.mean, source.std)


def find_fragmented_words(source: ClipSource, words: Sequence[str]) -> list[str]:
    """Return the words of which some part, between spaces or hyphens, is split into three tokens or more.

    Common nouns are one or two tokens; more suggest a typing error or a word that CLIP has hardly seen.
    """
    encode = _load_tokenizer((source.architecture or {}).get("text_cfg", {})).encode
    return [word for word in dict.fromkeys(words) if any(len(encode(part)) > 2 for part in re.split(r"[\s-]+", word))]


def load_open_clip_model(source: ClipSource) -> tuple[Any, dict[str, Any]]:
    """Load open_clip's own model in float32, with its config, as the basis of a training.

    Raises BadData for weights of another network.
    """
    model, _ = _build_model(source)
    return model.float(), source.architecture or infer_openai_config(model.state_dict())


def build_random_clip(architecture: dict[str, Any]) -> Any:
    """Build the model of a config with seeded random weights, in float32. Raises BadData for an invalid config."""
    return _build_model(ClipSource("clip", architecture, None))[0].float()


def build_text_tokenizer(architecture: dict[str, Any]) -> Any:
    """Load the tokenizer of a model config: `tokenizer(texts)` gives token ids (P, T). Raises Unavailable."""
    return _load_tokenizer(architecture["text_cfg"])


def _open_image_tower(visual: Any, dtype: torch.dtype, round_positions: bool, positions: str) -> ClipImageTower:
    """Wrap the image tower of an open_clip model in the class for its kind of layers."""
    if is_plain_vit(visual):
        return VisionTower(visual, dtype=dtype, round_positions=round_positions, positions=positions)
    if dtype != torch.float32:
        raise UsageError(f"the image tower of this CLIP, a {type(visual).__name__}, runs in fp32 only",
                         "Omit --precision or use --precision fp32")
    return ResNetTower(visual) if type(visual).__name__ == "ModifiedResNet" else HookedTower(visual)


def _load_tokenizer(text_config: dict[str, Any]) -> Any:
    """Load the tokenizer of a text tower. Raises Unavailable when it cannot be downloaded or needs a package."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    context, name = text_config.get("context_length", 77), text_config.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=context)
    try:
        return HFTokenizer(name, context_length=context, **(text_config.get("tokenizer_kwargs") or {}))
    except ModuleNotFoundError as error:
        raise Unavailable(f"the tokenizer {name} needs the package {error.name}, which is not installed",
                          f"Install it with `pip install {error.name}`") from None
    except Exception as error:
        raise Unavailable(f"the tokenizer {name} cannot be downloaded ({type(error).__name__})",
                          f"Copy the files of {name} into the cache of the Hugging Face hub") from None


def _build_model(source: ClipSource) -> tuple[Any, dict[str, Any]]:
    """Build the model and load its weights; return it with the settings of its text tower."""
    from open_clip import model as models

    state = None if source.weights is None else _read_weights(source.weights)
    settings = copy.deepcopy(source.architecture) or _infer_architecture(state or {}, source)
    has_custom_text = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    model_class = models.CustomTextCLIP if has_custom_text else models.CLIP
    if "multimodal_cfg" in settings:
        from open_clip.coca_model import CoCa
        model_class = CoCa
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = model_class(**settings)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise BadData(f"open_clip cannot build this model ({reason[:100]})",
                          "Use --clip with a model config of open_clip", where=source.name) from None
    if state is not None:
        _load_weights(model, state, source)
    return model, settings["text_cfg"]


def _infer_architecture(state: Mapping[str, Tensor], source: ClipSource) -> dict[str, Any]:
    """Infer the model config from weights released by OpenAI. Raises BadData for other weights."""
    try:
        return infer_openai_config(state)
    except (KeyError, IndexError) as error:
        raise BadData(f"the file does not contain the weights of a CLIP of OpenAI ({error} is missing)",
                      "Use --clip NAME or CONFIG.json with --weights", where=str(source.weights)) from None


def _load_weights(model: Any, state: dict[str, Tensor], source: ClipSource) -> None:
    """Load weights into the model. Raises BadData for weights of another network and for quantised ones."""
    state = {name: tensor for name, tensor in state.items() if name not in OPENAI_EXTRA_KEYS}
    target = model.state_dict()
    if "text.positional_embedding" in target and "positional_embedding" in state:
        state = {_add_text_prefix(name): tensor for name, tensor in state.items()}
    elif "positional_embedding" in target and "text.positional_embedding" in state:
        state = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    for name in sorted(set(state) | set(target)):
        parameter, weight = target.get(name), state.get(name)
        if weight is None and name.endswith(NUM_BATCHES_TRACKED):
            continue
        if (parameter is not None and weight is not None
                and parameter.is_floating_point() and not weight.is_floating_point()):
            raise BadData(f"{name} holds {str(weight.dtype).removeprefix('torch.')} numbers where {source.name} has "
                          "floating-point ones", "Use --weights that are not quantised", where=str(source.weights))
        if parameter is None or weight is None or parameter.shape != weight.shape:
            raise BadData(f"the weights are of another network: {name} {_describe_shape(weight)} in the file but "
                          f"{_describe_shape(parameter)} in {source.name}",
                          "Use --clip and --weights that belong together", where=str(source.weights))
    # Only the batch counters of BatchNorm may be missing, which matter in training only.
    model.load_state_dict(state, strict=False)


def _describe_shape(tensor: Tensor | None) -> str:
    return "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"


def _infer_gelu(file: Path) -> str:
    """Return which GELU a weights file was made for, "quick" or "exact", or "" when it does not show this."""
    if is_torchscript(file) and (gelu := detect_gelu(file)):
        return gelu
    return "quick" if is_openai_release(_read_weights(file)) else ""


def _build_ambiguity_error(clip: str, state: dict[str, Tensor]) -> UsageError:
    """Build the error for a --clip file whose tensors fit more than one architecture."""
    names = find_models_by_size(state)
    choice = f"--clip {' or '.join(names)}, as it was trained," if names else "--clip NAME or CONFIG.json"
    return UsageError(f"the architecture of --clip {clip} is ambiguous: tensors alone show neither which GELU (exact "
                      "or quick) the model was trained with nor how wide an attention head is",
                      f"Use {choice} with --weights {clip}")


def _add_text_prefix(name: str) -> str:
    return name if name.startswith(("visual.", "logit_")) else f"text.{name}"


def _read_weights(file: Path) -> dict[str, Tensor]:
    return read_torchscript(file) if is_torchscript(file) else read_state_dict(file)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
            hashlib.sha256(file.read()).hexdigest())
