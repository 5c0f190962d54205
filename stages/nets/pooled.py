"""Networks as extractors of one vector an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.fetch import fetch_weights
from stages.nets.files import load_net
from stages.nets.plain_classifier import as_maps, layer_of, timm_model
from stages.nets.registry import build_backbone, resolve
from stages.nets.text_grounded import TextGrounded
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
        """Return features (B, D) of images (B, 3, H, W). Raises UsageError for a size that the network can't take."""
        self._kept.clear()
        output = self._seen(images)
        if self._layer:
            if not self._kept:
                raise UsageError("--layer: no image passes this layer on its way to the network's maps",
                                 "name a layer before them")
            output = as_maps(self._kept.pop(), self.net, (images.shape[-2], images.shape[-1]))
        return output.mean((-2, -1)) if output.ndim == 4 else output

    def _seen(self, images: Tensor) -> Tensor:
        try:
            return self.net(images)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            size = getattr(self.net, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1]
            if "memory" in str(error) or not self._sees(images, size):
                raise
            why = (str(error).splitlines() or [""])[0]
            raise UsageError(f"--net: the network takes no pictures of {images.shape[-2]} x {images.shape[-1]} pixels "
                             f"({why})", f"give --size {size}") from error

    def _sees(self, images: Tensor, size: int) -> bool:
        """Return whether the network works at all, at the size that it is made for."""
        try:
            self.net(images.new_zeros(1, 3, size, size))
        except (AssertionError, RuntimeError, ValueError):
            return False
        return True


class ImageTower(nn.Module):
    """The image tower of a net of `train-text`: its CLIP's, at the class token."""

    def __init__(self, net: TextGrounded) -> None:
        super().__init__()
        self.clip = net.clip

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, E) of images (B, 3, H, W)."""
        return self.clip.image_embedding(images)


class FeatureNet(NamedTuple):
    """An extractor, its input's statistics, and the cell that images are rounded up to."""

    net: Pooled
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cell: int


def feature_net(name: str, weights: str | None, layer: str) -> FeatureNet:
    """Return the extractor of a net file of wsss, or of the network `name` with the file or tag `weights`.

    Of a net of ours it is the mean of the last map, of one of `train-text` the image's embedding by its CLIP; of a
    network of timm what it pools before its classifier (a ViT's class token, say). Raises UsageError, MissingInput,
    BadData, Unavailable.
    """
    if name.endswith(".safetensors") and weights is None:
        return _ours(name, layer)
    source, short = resolve(name)
    if weights is None:
        raise UsageError("--weights is missing", "give --weights FILE or a tag, or --net a file of train-cls")
    net = timm_model(short, 0) if source == "timm" else build_backbone(name)
    state = read_state_dict(weights) if names_a_file(weights) else fetch_weights(name, weights)
    import_weights(net, state, where=weights)
    told = net.pretrained_cfg if source == "timm" else {"mean": net.mean, "std": net.std}
    return FeatureNet(_still(net, layer), tuple(told["mean"]), tuple(told["std"]), _cell(net))


def _ours(path: str, layer: str) -> FeatureNet:
    net, described = load_net(path)
    mean, std = tuple(described["mean"]), tuple(described["std"])
    if not isinstance(net, TextGrounded):
        return FeatureNet(_still(net.backbone, layer), mean, std, int(described["stride"]))
    if layer:
        raise UsageError(f"--layer {layer!r}: of a net of train-text the embedding alone is pooled", "leave it out")
    return FeatureNet(_still(ImageTower(net), ""), mean, std, net.clip.cell)


def _cell(net: nn.Module) -> int:
    """Return 32 pixels, which most networks can halve to the end, or a patch that 32 is no multiple of (DINOv2's 14).
    """
    stride = getattr(getattr(getattr(net, "patch_embed", None), "proj", None), "stride", (1,))
    return int(stride[0]) if 32 % stride[0] else 32


def _still(net: nn.Module, layer: str) -> Pooled:
    return Pooled(net.eval().requires_grad_(False), layer)
