"""Network files: safetensors files with a metadata key that describes how to build and use the network.

The key `wsss` holds canonical JSON (sorted keys, no spaces): format, format_version, task, architecture, classes, mean,
std, stride, initial_weights, supervision, provenance, `sha256` of the tensors, and `digest`, the sha256 of the rest of
the JSON. Equal networks give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from stages.errors import BadData, UsageError
from stages.nets.affinity import AffinityNet
from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.classifier import Classifier, ClassTokenClassifier, SubcategoryClassifier
from stages.nets.irn import IRNet
from stages.nets.mctformer import MCTFORMER_HEADS, MCTformer, check_no_final_norm
from stages.nets.net_description import (
    FORMAT,
    FORMAT_VERSION,
    METADATA_KEY,
    NOT_FINITE_NET_REMEDY,
    build_damaged_error,
    build_unreadable_error,
    check_exists,
    format_canonical_json,
    iterate_tensors,
    parse_description,
    read_verified_description,
)
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter
from stages.nets.text_grounded import TEXT_SEGMENTATION_TASK, build_text_grounded_net
from stages.nets.weight_checks import check_weights_finite

AFFINITY_NETS = {net.head: net for net in (AffinityNet, IRNet)}
VERSION_REMEDY = "Use the version of wsss that wrote the file"


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over (name, dtype, shape, little-endian bytes) of the tensors in the order of their names.

    Name, dtype and shape form a line of JSON before the bytes of each tensor.
    """
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        header = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        sha256.update((json.dumps(header) + "\n").encode())
        sha256.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return sha256.hexdigest()


def serialise_net(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """Return the bytes of a network file; format, version, sha256 and digest are added to the description."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = {key: value for key, value in description.items() if key != "digest"}
    content |= {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": hash_tensors(copies)}
    content["digest"] = hashlib.sha256(format_canonical_json(content).encode()).hexdigest()
    return save(copies, metadata={METADATA_KEY: format_canonical_json(content)})


def is_net_file(path: str | PathLike[str]) -> bool:
    """Return whether a file is a network file of wsss, rather than plain weights or something else."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return METADATA_KEY in (file.metadata() or {})
    except Exception:
        return False


def read_net(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify a network file; return (tensors by name, description).

    Raises MissingInput; BadData when the file is not a network of wsss, has a newer format version, is truncated or
    damaged, or has weights that are not finite.
    """
    check_exists(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise build_unreadable_error(error, path) from error
    description = parse_description(text, str(path))
    if hash_tensors(tensors) != description["sha256"]:
        raise build_damaged_error(path)
    check_weights_finite(tensors, str(path), NOT_FINITE_NET_REMEDY)
    return tensors, description


def describe_architecture(net: nn.Module) -> dict[str, Any]:
    """Return what `build_net_from_description` needs to build `net`: backbone, head, stride and number of outputs.

    Further settings of a kind of network come from its `architecture_options`. A network without a backbone has an
    attribute `architecture` that holds everything.
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


def describe_net(net: nn.Module, *, classes: list[str], **entries: Any) -> dict[str, Any]:
    """Return the description of `net` for its file.

    `classes` are the class names with the background at index 0. `entries` are initial_weights {name, sha256},
    supervision and provenance.
    """
    return {
        "task": net.task, "architecture": describe_architecture(net), "classes": list(classes),
        "mean": list(net.mean), "std": list(net.std), "stride": net.stride, **entries,
    }  # fmt: skip


def build_net_from_description(description: Mapping[str, Any]) -> nn.Module:
    """Build the network of a description, with new weights. Raises BadData when this version cannot build it."""
    try:
        architecture = description["architecture"]
        if description["task"] == "classification":
            net = _build_classifier(architecture)
        elif description["task"] == "segmentation":
            net = build_segmenter(architecture["backbone"], architecture["n_outputs"], head=architecture["head"],
                                  stride=architecture["stride"])
        elif description["task"] == "affinity":
            backbone = build_backbone(architecture["backbone"], stride=architecture["stride"])
            net = AFFINITY_NETS[architecture["head"]](backbone, architecture["radius"])
        elif description["task"] == TEXT_SEGMENTATION_TASK:
            net = build_text_grounded_net(architecture)
        else:
            raise BadData(f"the task {description['task']} of the network is unknown", VERSION_REMEDY)
        net.mean, net.std = tuple(description["mean"]), tuple(description["std"])
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, UsageError) as error:
        raise BadData(f"the network cannot be built ({error})", VERSION_REMEDY) from error
    return net


def _build_classifier(architecture: Mapping[str, Any]) -> nn.Module:
    """Build the classifier of any kind that an architecture describes."""
    name, stride, num_classes = architecture["backbone"], architecture["stride"], architecture["n_outputs"]
    if architecture["head"] in MCTFORMER_HEADS:
        check_no_final_norm(architecture)
        position_size = architecture.get("position_size", 0)
        backbone = ClassTokenBackbone(name, num_classes, stride=stride, position_size=position_size)
        return MCTformer(backbone, MCTFORMER_HEADS[architecture["head"]])
    backbone, dropout = build_backbone(name, stride=stride), architecture.get("dropout", 0.0)
    if architecture["head"] == ClassTokenClassifier.head:
        return ClassTokenClassifier(backbone, num_classes, dropout=dropout)
    if "n_subcategories" in architecture:
        return SubcategoryClassifier(backbone, num_classes, architecture["n_subcategories"], dropout=dropout)
    return Classifier(backbone, num_classes, dropout=dropout)


@torch.no_grad()
def _copy_tensors(path: str | PathLike[str], net: nn.Module) -> None:
    """Copy the tensors of a verified file into a network, one by one. Raises RuntimeError for other names or shapes.

    They are read, not mapped: the pages of a mapped file would count as memory too.
    """
    state = net.state_dict()
    for stored in iterate_tensors(path):
        target = state.pop(stored.name, None)
        if target is None or list(target.shape) != stored.shape:
            raise RuntimeError(f"{stored.name} of shape {stored.shape} does not fit")
        if stored.data:
            dtype = getattr(torch, stored.dtype.removeprefix("torch."))
            target.copy_(torch.frombuffer(bytearray(stored.data), dtype=dtype).reshape(stored.shape))
    if state:
        raise RuntimeError(f"{next(iter(state))} is missing")


def load_net(path: str | PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network file; return (network in evaluation mode, description).

    The tensors are read one by one, since those of a CLIP alone take 600 MB. Raises the errors of `read_net`, and
    BadData when the network cannot be built or its weights do not fit.
    """
    description = read_verified_description(path)
    try:
        net = build_net_from_description(description)
        if hasattr(net, "check_tensors"):
            net.check_tensors(read_net(path)[0])
        _copy_tensors(path, net)
    except (BadData, RuntimeError) as error:
        if isinstance(error, BadData):
            raise BadData(error.message, error.remedy, where=str(path)) from error
        raise BadData("the weights do not fit the architecture in the description", VERSION_REMEDY,
                      where=str(path)) from error
    return net.eval(), description
