"""A second network that says which parts of an image are alike, such as DINO's vision transformer of timm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import UsageError
from stages.nets.backbone import Backbone
from stages.nets.registry import build_backbone, resolve
from stages.nets.weights import fetch_weights, import_weights, names_a_file, read_state_dict, weights_digest


@dataclass(frozen=True)
class ProxySource:
    """Which network, and its weights: a file, a tag of its library, or `random` (seeded)."""

    name: str
    weights: str

    def digests(self) -> dict[str, str]:
        """Return what identifies the network and its weights."""
        return {"proxy": self.name, "proxy_weights": weights_digest(self.weights)["weights"]}


def find_proxy(name: str | None, weights: str | None) -> ProxySource:
    """Return where the proxy comes from. Raises UsageError, MissingInput, BadData."""
    if name is None or weights is None:
        missing = "--proxy" if name is None else "--proxy-weights"
        raise UsageError(f"{missing} is missing",
                         "give for example --proxy timm:vit_base_patch8_224 --proxy-weights dino")
    resolve(name)
    if names_a_file(weights):
        read_state_dict(weights)
    return ProxySource(name, weights)


def load_proxy(source: ProxySource, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> Proxy:
    """Return the frozen proxy for images normalised with `mean` and `std`. Raises BadData, Unavailable."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_backbone(source.name)
    if source.weights != "random":
        file = names_a_file(source.weights)
        state = read_state_dict(source.weights) if file else fetch_weights(source.name, source.weights)
        import_weights(net, state, where=source.weights)
    return Proxy(net.eval().requires_grad_(False).to(device), mean, std)


class Proxy:
    """A frozen network for images that are normalised for another one."""

    def __init__(self, net: Backbone, mean: Sequence[float], std: Sequence[float]) -> None:
        self._net = net
        ratio = [theirs / ours for theirs, ours in zip(std, net.std, strict=True)]
        moved = [(theirs - own) / ours for theirs, own, ours in zip(mean, net.mean, net.std, strict=True)]
        self._ratio, self._moved = (torch.tensor(values).view(-1, 1, 1) for values in (ratio, moved))

    def features(self, images: Tensor) -> Tensor:
        """Return the final map (B, D, h, w) of `images` (B, 3, H, W), resized up to whole cells of the network."""
        own = images * self._ratio.to(images.device) + self._moved.to(images.device)
        size = [-(-length // self._net.stride) * self._net.stride for length in images.shape[-2:]]
        if size != list(images.shape[-2:]):
            own = F.interpolate(own, size, mode="bilinear", align_corners=False)
        return self._net(own)
