"""Net files: safetensors whose one metadata key says all that is needed to use the net again.

The key `wsss` holds canonical JSON (sorted keys, no blanks): format, format_version, task, architecture,
classes, mean, std, stride, initial_weights, supervision, provenance, `sha256` of the tensors, and `digest`,
the sha256 of all the rest of the JSON. Equal nets give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from stages.errors import BadData, MissingInput, UsageError
from stages.nets.affinity import AffinityNet
from stages.nets.class_tokens import ClassTokenBackbone
from stages.nets.classifier import Classifier, ClassTokenClassifier, SubcategoryClassifier
from stages.nets.finite import check_weights_finite
from stages.nets.irn import IRNet
from stages.nets.mctformer import MCTFORMERS, MCTformer, check_description
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter
from stages.nets.text_grounded import TASK as GROUNDED
from stages.nets.text_grounded import build_grounded

AFFINITIES = {net.head: net for net in (AffinityNet, IRNet)}
FORMAT = "wsss-net"
FORMAT_VERSION = "1.0"
KEY = "wsss"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over (name, dtype, shape, little-endian bytes) of the tensors in order of their names.

    Name, dtype and shape are a line of JSON before the bytes.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        total.update((json.dumps(head) + "\n").encode())
        total.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


def net_bytes(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """Return the bytes of a net file; format, version, sha256 and digest are added to the description."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    described = {key: value for key, value in description.items() if key != "digest"}
    described |= {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": tensors_sha256(plain)}
    described["digest"] = hashlib.sha256(_canonical(described).encode()).hexdigest()
    return save(plain, metadata={KEY: _canonical(described)})


def _canonical(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True, separators=(",", ":"))


def is_net(path: str | PathLike[str]) -> bool:
    """Return whether a file is a net of ours, rather than plain weights or something else."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return KEY in (file.metadata() or {})
    except Exception:
        return False


def read_net(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors by name, description) of a net file, verified.

    Raises MissingInput; BadData when it is no net of ours, of a newer version, cut short or damaged, or when a weight
    is not finite.
    """
    if not Path(path).is_file():
        raise MissingInput("no such file", "give a net written by wsss train-*", where=str(path))
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise BadData(f"no net file, or cut short ({error})", "train or copy it again", where=str(path)) from error
    description = _described(text, str(path))
    if tensors_sha256(tensors) != description["sha256"]:
        raise BadData("damaged: its tensors don't match their sha256", "copy it again", where=str(path))
    check_weights_finite(tensors, str(path), "train it again")
    return tensors, description


def _described(text: str | None, where: str) -> dict[str, Any]:
    if text is None:
        raise BadData("weights without a description, no net of wsss", "give it as --weights of train-*", where=where)
    try:
        description = json.loads(text)
        version = str(description["format_version"])
        rest = {key: value for key, value in description.items() if key != "digest"}
        whole = hashlib.sha256(_canonical(rest).encode()).hexdigest() == description["digest"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData("damaged: its description can't be read", "copy it again", where=where) from error
    if description.get("format") == FORMAT and version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise BadData(
            f"of format version {version}, this program reads {FORMAT_VERSION}", "use a newer wsss", where=where
        )
    if not whole or _canonical(description) != text or description.get("format") != FORMAT:
        raise BadData("damaged: its description doesn't match its digest", "copy it again", where=where)
    return description


def architecture_of(net: nn.Module) -> dict[str, Any]:
    """Return what `build_from_description` needs to build `net` again: backbone, head, stride, outputs.

    What a kind of net needs besides is its `architecture_options`; a net without a backbone says all itself.
    """
    if hasattr(net, "architecture"):
        return net.architecture
    return {
        "backbone": net.backbone.name,
        "head": net.head,
        "stride": net.backbone.stride,
        "n_outputs": net.n_outputs,
        "dropout": getattr(net, "dropout_rate", 0.0),
        **getattr(net, "architecture_options", {}),
    }


def describe_net(net: nn.Module, *, classes: list[str], **more: Any) -> dict[str, Any]:
    """Return the description of `net` for its file.

    `more` holds initial_weights {name, sha256}, supervision and provenance; `classes` the names with the
    background at position 0.
    """
    return {
        "task": net.task, "architecture": architecture_of(net), "classes": list(classes),
        "mean": list(net.mean), "std": list(net.std), "stride": net.stride, **more,
    }  # fmt: skip


def build_from_description(description: Mapping[str, Any]) -> nn.Module:
    """Return the net of a description with fresh weights. Raises BadData when it names no network of ours."""
    try:
        parts = description["architecture"]
        if description["task"] == "classification":
            net = _classifier(parts)
        elif description["task"] == "segmentation":
            net = build_segmenter(parts["backbone"], parts["n_outputs"], head=parts["head"], stride=parts["stride"])
        elif description["task"] == "affinity":
            net = AFFINITIES[parts["head"]](build_backbone(parts["backbone"], stride=parts["stride"]), parts["radius"])
        elif description["task"] == GROUNDED:
            net = build_grounded(parts)
        else:
            raise BadData(f"a net for {description['task']}", "use the version that wrote it")
        net.mean, net.std = tuple(description["mean"]), tuple(description["std"])
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, UsageError) as error:
        raise BadData(f"a net that can't be built here ({error})", "use the version that wrote it") from error
    return net


def _classifier(parts: Mapping[str, Any]) -> nn.Module:
    name, stride, outputs = parts["backbone"], parts["stride"], parts["n_outputs"]
    if parts["head"] in MCTFORMERS:
        check_description(parts)
        backbone = ClassTokenBackbone(name, outputs, stride=stride, position_size=parts.get("position_size", 0))
        return MCTformer(backbone, MCTFORMERS[parts["head"]])
    backbone, dropout = build_backbone(name, stride=stride), parts.get("dropout", 0.0)
    if parts["head"] == ClassTokenClassifier.head:
        return ClassTokenClassifier(backbone, outputs, dropout=dropout)
    if "n_subcategories" in parts:
        return SubcategoryClassifier(backbone, outputs, parts["n_subcategories"], dropout=dropout)
    return Classifier(backbone, outputs, dropout=dropout)


def load_net(path: str | PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Return (net in evaluation mode, description) of a net file. Raises as `read_net` does."""
    tensors, description = read_net(path)
    try:
        net = build_from_description(description)
        if hasattr(net, "check_tensors"):
            net.check_tensors(tensors)
        net.load_state_dict(tensors)
    except (BadData, RuntimeError) as error:
        if isinstance(error, BadData):
            raise BadData(error.what, error.do, where=str(path)) from error
        raise BadData("its weights don't fit its architecture", "use the version that wrote it",
                      where=str(path)) from error
    return net.eval(), description
