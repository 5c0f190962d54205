"""Networks as extractors of one vector an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.class_token import class_token, has_class_token
from stages.nets.classifier import ClassTokenClassifier
from stages.nets.fetch import fetch_weights
from stages.nets.files import load_net
from stages.nets.layer_maps import LayerMaps
from stages.nets.plain_classifier import input_cell, layer_of, run_net, timm_model
from stages.nets.registry import build_backbone, resolve
from stages.nets.text_grounded import TextGrounded
from stages.nets.weights import import_weights, names_a_file, read_state_dict

_SIZE = "give --size {size}"

POOLS = ("auto", "class-token", "mean")


class Pooled(nn.Module):
    """A network, or one of its layers, whose output is (B, D).

    `auto` is what the network pools itself (the mean over the cells, where it gives a map), of a layer the mean over
    its cells; `class-token` the first token, behind the final norm of the network; `mean` that over the cells or
    patches, without class token and registers.
    """

    def __init__(self, net: nn.Module, layer: str = "", pool: str = "auto", cell: int = 32) -> None:
        super().__init__()
        self.net, self.pool = net, pool
        self._outputs: list[Tensor] = []
        self._maps: LayerMaps | None = None
        if layer:
            module = layer_of(net, layer)
            self._maps = LayerMaps(net, module, cell)
            module.register_forward_hook(lambda _module, _inputs, output: self._outputs.append(output))
        elif pool == "class-token" and not has_class_token(net):
            raise UsageError("--pool class-token: the network has no class token",
                             "give --pool mean, or a network such as timm:vit_base_patch16_224")

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W). Raises UsageError for a size that the network can't take."""
        if self._maps:
            return self._of_layer(self._maps, images)
        if self.pool == "class-token":
            return run_net(_Call(self.net, class_token), images, _SIZE)
        if self.pool == "mean":
            return run_net(_Call(self.net, mean_of_cells), images, _SIZE)
        output = run_net(self.net, images, _SIZE)
        return output.mean((-2, -1)) if output.ndim == 4 else output

    def _of_layer(self, maps: LayerMaps, images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        self._outputs.clear()
        run_net(self.net, images, _SIZE)
        if not self._outputs:
            raise UsageError("--layer: no image passes this layer on its way to the network's maps",
                             "name a layer before them")
        output = self._outputs[-1]
        return maps.prefix(output)[:, 0] if self.pool == "class-token" else maps(output, size).mean((-2, -1))


class _Call(nn.Module):
    """A network whose forward pass is a function of it and of the images."""

    def __init__(self, net: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.function = net, function
        self.pretrained_cfg = getattr(net, "pretrained_cfg", {})

    def forward(self, images: Tensor) -> Tensor:
        """Return the function's value."""
        return self.function(self.net, images)


def mean_of_cells(net: Any, images: Tensor) -> Tensor:
    """Return the mean (B, D) over the cells of the last map, or over the patches behind the final norm.

    That is what a network of timm made for average pooling does itself, with the norm that may come after it.
    """
    if not hasattr(net, "forward_features") or getattr(net, "global_pool", "") == "avg":
        output = net(images)
        return output.mean((-2, -1)) if output.ndim == 4 else output
    features = net.forward_features(images)
    if features.ndim == 3:
        return features[:, int(getattr(net, "num_prefix_tokens", 0)):].mean(1)
    return features.mean((1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else (2, 3))


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


def feature_net(name: str, weights: str | None, layer: str, pool: str = "auto") -> FeatureNet:
    """Return the extractor of a net file of wsss, or of the network `name` with the file or tag `weights`.

    With `pool` "auto" a net of ours gives what its classifier reads: the class token where it was trained on that, else
    the mean of the last map; one of `train-text` the image's embedding by its CLIP; a network of timm what it pools
    before its classifier (a ViT's class token, say). Raises UsageError, MissingInput, BadData, Unavailable.
    """
    if name.endswith(".safetensors") and weights is None:
        return _load_ours(name, layer, pool)
    source, short = resolve(name)
    if weights is None:
        raise UsageError("--weights is missing", "give --weights FILE or a tag, or --net a file of train-cls")
    net = timm_model(short, 0) if source == "timm" else build_backbone(name)
    state = read_state_dict(weights) if names_a_file(weights) else fetch_weights(name, weights)
    import_weights(net, state, where=weights)
    told = net.pretrained_cfg if source == "timm" else {"mean": net.mean, "std": net.std}
    cell = input_cell(net)
    return FeatureNet(_freeze(net, layer, pool, cell), tuple(told["mean"]), tuple(told["std"]), cell)


def _load_ours(path: str, layer: str, pool: str) -> FeatureNet:
    net, described = load_net(path)
    mean, std = tuple(described["mean"]), tuple(described["std"])
    if not isinstance(net, TextGrounded):
        if pool == "auto" and not layer and isinstance(net, ClassTokenClassifier):
            pool = "class-token"
        stride = int(described["stride"])
        return FeatureNet(_freeze(net.backbone, layer, pool, stride), mean, std, stride)
    if layer:
        raise UsageError(f"--layer {layer!r}: of a net of train-text the embedding alone is pooled", "leave it out")
    if pool == "mean":
        raise UsageError("--pool mean: a net of train-text has its image's embedding at the class token",
                         "leave --pool out")
    return FeatureNet(_freeze(ImageTower(net), "", "auto", net.clip.cell), mean, std, net.clip.cell)


def _freeze(net: nn.Module, layer: str, pool: str, cell: int) -> Pooled:
    return Pooled(net.eval().requires_grad_(False), layer, pool, cell)
