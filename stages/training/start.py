"""What every training does before its first step: input statistics, weights, freezing, the net's description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stages.errors import BadData, UsageError
from stages.flow.execution import Report
from stages.nets.files import is_net, read_net
from stages.nets.weights import fetch_weights, import_weights, names_a_file, read_state_dict, weights_digest
from stages.settings import as_plain
from stages.shards import Run, provenance_entry
from stages.training.config import TrainingConfig
from stages.training.distributed import processes


def start_from(net: nn.Module, config: TrainingConfig, weights: str | None, report: Report) -> dict[str, Any]:
    """Load `weights` (a file or a tag; the head's may be of another size), and freeze what is to be.

    Returns the description of the initial weights. Raises BadData for weights of another network,
    Unavailable for a tag that can't be fetched.
    """
    backbone: Any = net.backbone
    initial: dict[str, Any] = {"name": "random"}
    if weights:
        is_file = names_a_file(weights)
        state = read_state_dict(weights) if is_file else fetch_weights(config.net, weights)
        told = import_weights(net, state, where=weights)
        report.tell(f"weights: {told}")
        initial = {"name": Path(weights).name if is_file else weights,
                   "sha256": weights_digest(weights)["weights"] if is_file else ""}
    else:
        report.tell("no --weights: the network starts from random weights")
    if config.freeze:
        backbone.freeze(config.freeze)
    return initial


def input_statistics(net: nn.Module, config: TrainingConfig,
                     weights: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) that the input is normalised with.

    The given ones, else those of `weights` where these are a net of ours, else the network's own.
    Raises UsageError unless there are three of each.
    """
    own = (tuple(net.mean), tuple(net.std))
    if weights and weights.endswith(".safetensors") and is_net(weights):
        _, description = read_net(weights)
        own = (tuple(description["mean"]), tuple(description["std"]))
    mean, std = config.mean or own[0], config.std or own[1]
    if len(mean) != 3 or len(std) != 3:
        raise UsageError("--mean and --std take three numbers each", "give for example --mean 0.5,0.5,0.5")
    return mean, std


def tell_refused(index: Run, report: Report) -> None:
    """Tell how many images of an index were refused when it was made, and can't be learnt from."""
    refused = sum(len(shard.errors) for shard in index.shards)
    if refused:
        report.tell(f"{refused} images were refused by the index and are left out")


def supervision_of(index: Run) -> str:
    """Return what the index's labels come from, as its provenance has it."""
    return str(index.first.provenance[0].get("config", {}).get("supervision", "tags"))


def training_entry(stage: str, method: str, config: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance entry of a training with resolved settings."""
    return provenance_entry(stage, method, {**as_plain(config), "processes": processes()}, dict(digests))


def at_least_one(samples: list[Any], what: str, where: str) -> None:
    """Raise BadData when nothing is left to train on."""
    if not samples:
        raise BadData(f"no image {what}", "see wsss info", where=where)
