"""Networks as extractors of one vector an image."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.fetch import fetch_weights
from stages.nets.files import load_net
from stages.nets.plain_classifier import as_maps, layer_of, timm_model
from stages.nets.registry import build_backbone, resolve
from stages.nets.weights import import_weights, names_a_file, read_state_dict


class Pooled(nn.Module):
    """A network whose output is (B, D): of one of its layers the mean over the cells, else what it pools itself."""

    def __init__(self, net: nn.Module, layer: str = "") -> None:
        super().__init__()
        self.net = net
        self._kept: list[Tensor] = []
        self._layer = bool(layer)
        if layer:
            layer_of(net, layer).register_forward_hook(lambda _module, _inputs, output: self._kept.append(output))

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W)."""
        self._kept.clear()
        output = self.net(images)
        if self._layer:
            output = as_maps(self._kept.pop(), self.net, (images.shape[-2], images.shape[-1]))
        return output.mean((-2, -1)) if output.ndim == 4 else output


class FeatureNet(NamedTuple):
    """An extractor, its input's statistics, and the cell that images are rounded up to."""

    net: Pooled
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cell: int


def feature_net(name: str, weights: str | None, layer: str) -> FeatureNet:
    """Return the extractor of a net file of wsss, or of the network `name` with the file or tag `weights`.

    Of a net of ours it is the mean of the last map; of a network of timm what it pools before its classifier (a
    ViT's class token, say). Raises UsageError, MissingInput, BadData, Unavailable.
    """
    if name.endswith(".safetensors") and weights is None:
        net, described = load_net(name)
        return FeatureNet(_still(net.backbone, layer), tuple(described["mean"]), tuple(described["std"]),
                          int(described["stride"]))
    source, short = resolve(name)
    if weights is None:
        raise UsageError("--weights is missing", "give --weights FILE or a tag, or --net a file of train-cls")
    net = timm_model(short, 0) if source == "timm" else build_backbone(name)
    state = read_state_dict(weights) if names_a_file(weights) else fetch_weights(name, weights)
    import_weights(net, state, where=weights)
    told = net.pretrained_cfg if source == "timm" else {"mean": net.mean, "std": net.std}
    return FeatureNet(_still(net, layer), tuple(told["mean"]), tuple(told["std"]), 32)


def _still(net: nn.Module, layer: str) -> Pooled:
    return Pooled(net.eval().requires_grad_(False), layer)
