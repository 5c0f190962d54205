"""Prepare a training before its first step: load weights, freeze layers, choose the input normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stages.errors import BadData, UsageError
from stages.flow.execution import Report
from stages.nets.net_description import read_verified_description
from stages.nets.net_files import is_net_file
from stages.nets.weights import compute_weights_digest, fetch_weights, import_weights, is_weights_path, read_state_dict
from stages.settings import to_json_dict
from stages.shards import Run, provenance_entry
from stages.training.config import TrainingConfig
from stages.training.distributed import read_world_size


def initialise_net(net: nn.Module, config: TrainingConfig, weights: str | None, report: Report) -> dict[str, Any]:
    """Load the initial weights, then freeze the layers that `--freeze` names. Return the weights' description.

    Raises as `load_initial_weights`.
    """
    description = load_initial_weights(net, config, weights, report)
    backbone: Any = net.backbone
    if config.freeze:
        backbone.freeze(config.freeze)
    return description


def load_initial_weights(net: nn.Module, config: TrainingConfig, weights: str | None, report: Report) -> dict[str, Any]:
    """Load `weights` (a file or a tag) where there are any, and return their description; a head may differ in size.

    Raises BadData for weights of another network, Unavailable for a tag that can't be downloaded.
    """
    if not weights:
        report.info("The network starts from random weights (use --weights FILE|TAG to start from trained ones).")
        return {"name": "random"}
    report.start_phase("loading weights")
    is_file = is_weights_path(weights)
    state = read_state_dict(weights) if is_file else fetch_weights(config.net, weights)
    import_report = import_weights(net, state, where=weights)
    report.info(f"Loaded the weights {weights}: {import_report}.")
    report.start_phase("reading the index")
    return {"name": Path(weights).name if is_file else weights,
            "sha256": compute_weights_digest(weights)["weights"] if is_file else ""}


def resolve_input_normalisation(net: nn.Module, config: TrainingConfig,
                                weights: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the (mean, std) that the input is normalised with.

    They are --mean and --std, else those of `weights` where these are a network that wsss trained, else the network's
    defaults. Raises UsageError unless there are three numbers in each.
    """
    mean, std = tuple(net.mean), tuple(net.std)
    if weights and weights.endswith(".safetensors") and is_net_file(weights):
        description = read_verified_description(weights)
        mean, std = tuple(description["mean"]), tuple(description["std"])
    mean, std = config.mean or mean, config.std or std
    if len(mean) != 3 or len(std) != 3:
        raise UsageError("--mean and --std take three numbers each",
                         "Use for example --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25")
    return mean, std


def report_rejected_images(index: Run, report: Report) -> None:
    """Report how many images the index rejected when it was made; they are skipped."""
    num_rejected = sum(len(shard.errors) for shard in index.shards)
    if num_rejected:
        report.info(f"Skipping {num_rejected} images that the index rejected (see `wsss info {index.first.path}`).")


def read_supervision(index: Run) -> str:
    """Return where the labels of the index come from, according to its provenance."""
    return str(index.first.provenance[0].get("config", {}).get("supervision", "tags"))


def build_training_provenance(stage: str, method: str, config: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance entry of a training whose settings are resolved."""
    return provenance_entry(stage, method, {**to_json_dict(config), "processes": read_world_size()}, dict(digests))


def require_samples(samples: list[Any], requirement: str, where: str) -> None:
    """Raise BadData when there is no sample to train on; `requirement` reads on after "no image"."""
    if not samples:
        raise BadData(f"no image {requirement}", f"Look at what it holds with `wsss info {where}`", where=where)
