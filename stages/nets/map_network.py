"""A frozen network of which only the last map is used: one trained with wsss, or a pretrained one by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from stages.errors import BadData, UsageError
from stages.nets.net_description import read_verified_description
from stages.nets.net_files import load_net
from stages.nets.proxy import ProxySource, load_frozen_backbone
from stages.nets.registry import resolve_backbone_name
from stages.nets.weights import compute_weights_digest, is_weights_path, read_state_dict


@dataclass(frozen=True)
class MapNetworkSource:
    """A file of a trained network, or the name of a network and its weights: a file, a tag of its library, `random`."""

    name: str
    weights: str | None

    def compute_digests(self) -> dict[str, str]:
        """Return the provenance entries that identify the network and its weights."""
        if self.weights is None:
            return {"net": read_verified_description(self.name)["sha256"]}
        return {"net": self.name, **compute_weights_digest(self.weights)}


class MapNetwork(NamedTuple):
    """A network from images (B, 3, H, W) to maps (B, D, h, w), the mean and std of its input, and its stride."""

    net: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride: int


def resolve_map_network(name: str, weights: str | None) -> MapNetworkSource:
    """Return the source of a network after checking both options. Raises UsageError, MissingInput, BadData."""
    if weights is None and name.endswith(".safetensors"):
        read_verified_description(name)
        return MapNetworkSource(name, None)
    if weights is None:
        raise UsageError("--weights is missing", "Give --weights FILE or a tag, or give --net a file of a network "
                         "trained with wsss")
    resolve_backbone_name(name)
    if is_weights_path(weights):
        read_state_dict(weights)
    return MapNetworkSource(name, weights)


def load_map_network(source: MapNetworkSource, device: torch.device) -> MapNetwork:
    """Return the network on its device. Raises BadData for a trained network without a map, Unavailable."""
    if source.weights is not None:
        net = load_frozen_backbone(ProxySource(source.name, source.weights), device)
        return MapNetwork(net, tuple(net.mean), tuple(net.std), int(net.stride))
    trained, description = load_net(source.name)
    backbone = getattr(trained, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise BadData(f"a network trained for {description['task']} has no map that can be used here",
                      "Give a network of `wsss train-cls`, or a pretrained one by name with --weights",
                      where=source.name)
    backbone = backbone.eval().requires_grad_(False).to(device)
    return MapNetwork(backbone, tuple(description["mean"]), tuple(description["std"]), int(description["stride"]))
