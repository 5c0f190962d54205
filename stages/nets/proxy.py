"""A second, frozen network whose features tell which image parts are similar, such as timm's DINO ViT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import UsageError
from stages.nets.backbone import Backbone
from stages.nets.registry import build_backbone, resolve_backbone_name
from stages.nets.weights import compute_weights_digest, fetch_weights, import_weights, is_weights_path, read_state_dict


@dataclass(frozen=True)
class ProxySource:
    """The name of a network, and its weights: a file, a tag of its library, or `random` (seeded)."""

    name: str
    weights: str

    def compute_digests(self) -> dict[str, str]:
        """Return the provenance entries that identify the network and its weights."""
        return {"proxy": self.name, "proxy_weights": compute_weights_digest(self.weights)["weights"]}


def resolve_proxy_source(name: str | None, weights: str | None) -> ProxySource:
    """Return the source of the proxy after checking both options. Raises UsageError, MissingInput, BadData."""
    if name is None or weights is None:
        missing = "--proxy" if name is None else "--proxy-weights"
        raise UsageError(f"{missing} is missing",
                         "Give for example --proxy timm:vit_base_patch8_224 --proxy-weights dino")
    resolve_backbone_name(name)
    if is_weights_path(weights):
        read_state_dict(weights)
    return ProxySource(name, weights)


def load_proxy(source: ProxySource, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> Proxy:
    """Return the frozen proxy for images normalised with `mean` and `std`. Raises BadData, Unavailable."""
    return Proxy(load_frozen_backbone(source, device), mean, std)


def load_frozen_backbone(source: ProxySource, device: torch.device) -> Backbone:
    """Return the network on its device, in evaluation mode and without gradients. Raises BadData, Unavailable."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_backbone(source.name)
    if source.weights != "random":
        is_file = is_weights_path(source.weights)
        state = read_state_dict(source.weights) if is_file else fetch_weights(source.name, source.weights)
        import_weights(net, state, where=source.weights)
    return net.eval().requires_grad_(False).to(device)


class Proxy:
    """A frozen network that takes images normalised for another network."""

    def __init__(self, net: Backbone, mean: Sequence[float], std: Sequence[float]) -> None:
        self._net = net
        # x * scale + shift undoes the normalisation with `mean` and `std` and applies that of the network.
        scale = [their_std / own_std for their_std, own_std in zip(std, net.std, strict=True)]
        shift = [(their_mean - own_mean) / own_std
                 for their_mean, own_mean, own_std in zip(mean, net.mean, net.std, strict=True)]
        self._scale, self._shift = (torch.tensor(values).view(-1, 1, 1) for values in (scale, shift))

    def features(self, images: Tensor) -> Tensor:
        """Return the final map (B, D, h, w) of `images` (B, 3, H, W), which are enlarged to whole cells."""
        normalised = images * self._scale.to(images.device) + self._shift.to(images.device)
        size = [-(-length // self._net.stride) * self._net.stride for length in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            normalised = F.interpolate(normalised, size, mode="bilinear", align_corners=False)
        return self._net(normalised)
