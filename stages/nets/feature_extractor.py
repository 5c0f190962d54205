"""Networks as extractors of one feature vector per image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.classifier import ClassTokenClassifier
from stages.nets.layer_maps import LayerMapExtractor
from stages.nets.library_classifier import create_timm_model, find_layer, find_size_divisor, run_net
from stages.nets.net_files import load_net
from stages.nets.pretrained import fetch_weights
from stages.nets.registry import build_backbone, resolve_backbone_name
from stages.nets.text_grounded import TextGroundedNet
from stages.nets.timm_class_token import compute_class_token, has_class_token
from stages.nets.weights import import_weights, is_weights_path, read_state_dict

_RESIZE_REMEDY = "Resize the images with --size {size}"

POOLING_MODES = ("auto", "class-token", "mean")


class PooledNet(nn.Module):
    """A network, or one of its layers, whose output is pooled to (B, D).

    `pool` is "auto": the network's own pooling (the mean over the cells if it returns a map), or for a layer the mean
    over its cells; "class-token": the first token, after the network's final norm; "mean": the mean over the cells or
    patch tokens, without class token and registers.
    """

    def __init__(self, net: nn.Module, layer: str = "", pool: str = "auto", cell: int = 32) -> None:
        super().__init__()
        self.net, self.pool = net, pool
        self._outputs: list[Tensor] = []
        self._layer_maps: LayerMapExtractor | None = None
        if layer:
            module = find_layer(net, layer)
            self._layer_maps = LayerMapExtractor(net, module, cell)
            module.register_forward_hook(lambda _module, _inputs, output: self._outputs.append(output))
        elif pool == "class-token" and not has_class_token(net):
            raise UsageError("--pool class-token: the network has no class token",
                             "Use --pool mean, or a network with a class token such as timm:vit_base_patch16_224")

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W). Raises UsageError for a size that the network rejects."""
        if self._layer_maps:
            return self._pool_layer_output(self._layer_maps, images)
        if self.pool == "class-token":
            return run_net(_FunctionNet(self.net, compute_class_token), images, _RESIZE_REMEDY)
        if self.pool == "mean":
            return run_net(_FunctionNet(self.net, average_cells), images, _RESIZE_REMEDY)
        output = run_net(self.net, images, _RESIZE_REMEDY)
        return output.mean((-2, -1)) if output.ndim == 4 else output

    def _pool_layer_output(self, layer_maps: LayerMapExtractor, images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        self._outputs.clear()
        run_net(self.net, images, _RESIZE_REMEDY)
        if not self._outputs:
            raise UsageError("--layer: the forward pass to the network's maps does not reach this layer",
                             "Give --layer a layer that comes before the maps")
        output = self._outputs[-1]
        if self.pool == "class-token":
            return layer_maps.select_prefix_tokens(output)[:, 0]
        return layer_maps(output, size).mean((-2, -1))


class _FunctionNet(nn.Module):
    """A network whose forward pass is a function of the network and the images."""

    def __init__(self, net: nn.Module, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.function = net, function
        self.pretrained_cfg = getattr(net, "pretrained_cfg", {})

    def forward(self, images: Tensor) -> Tensor:
        """Return the function's value."""
        return self.function(self.net, images)


def average_cells(net: Any, images: Tensor) -> Tensor:
    """Return the mean (B, D) over the cells of the last map, or over the patch tokens after the final norm.

    A timm network built for average pooling does this itself, including a norm that may follow the pooling.
    """
    if not hasattr(net, "forward_features") or getattr(net, "global_pool", "") == "avg":
        output = net(images)
        return output.mean((-2, -1)) if output.ndim == 4 else output
    features = net.forward_features(images)
    if features.ndim == 3:
        return features[:, int(getattr(net, "num_prefix_tokens", 0)):].mean(1)
    return features.mean((1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else (2, 3))


class ImageTower(nn.Module):
    """The image tower of a `train-text` network: that of its CLIP, read at the class token."""

    def __init__(self, net: TextGroundedNet) -> None:
        super().__init__()
        self.clip = net.clip

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, E) of images (B, 3, H, W)."""
        return self.clip.encode_image(images)


class FeatureExtractor(NamedTuple):
    """An extractor, the mean and std of its input, and the cell that image sides are rounded up to."""

    net: PooledNet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    cell: int


def load_feature_extractor(name: str, weights: str | None, layer: str, pool: str = "auto") -> FeatureExtractor:
    """Return the extractor of a wsss net file, or of the network `name` with the file or tag `weights`.

    With `pool` "auto" a classifier of ours gives what its classifier layer reads: the class token if it was trained on
    that, else the mean of the last map; a `train-text` network gives the image embedding of its CLIP; a timm network
    gives what it pools before its classifier (the class token of a ViT, for example). Raises UsageError, MissingInput,
    BadData, Unavailable.
    """
    if name.endswith(".safetensors") and weights is None:
        return _load_from_net_file(name, layer, pool)
    source, short_name = resolve_backbone_name(name)
    if weights is None:
        raise UsageError("--weights is missing",
                         "Give --weights FILE or a tag, or give --net a file written by `wsss train-cls`")
    net = create_timm_model(short_name, 0) if source == "timm" else build_backbone(name)
    state = read_state_dict(weights) if is_weights_path(weights) else fetch_weights(name, weights)
    import_weights(net, state, where=weights)
    statistics = net.pretrained_cfg if source == "timm" else {"mean": net.mean, "std": net.std}
    cell = find_size_divisor(net)
    pooled_net = _build_frozen_pooled_net(net, layer, pool, cell)
    return FeatureExtractor(pooled_net, tuple(statistics["mean"]), tuple(statistics["std"]), cell)


def _load_from_net_file(path: str, layer: str, pool: str) -> FeatureExtractor:
    net, description = load_net(path)
    mean, std = tuple(description["mean"]), tuple(description["std"])
    if not isinstance(net, TextGroundedNet):
        if pool == "auto" and not layer and isinstance(net, ClassTokenClassifier):
            pool = "class-token"
        stride = int(description["stride"])
        return FeatureExtractor(_build_frozen_pooled_net(net.backbone, layer, pool, stride), mean, std, stride)
    if layer:
        raise UsageError(f"--layer {layer!r}: a train-text network gives its image embedding only, no other layer",
                         "Leave out --layer")
    if pool == "mean":
        raise UsageError("--pool mean: a train-text network reads its image embedding from the class token",
                         "Leave out --pool")
    cell = net.clip.cell
    return FeatureExtractor(_build_frozen_pooled_net(ImageTower(net), "", "auto", cell), mean, std, cell)


def _build_frozen_pooled_net(net: nn.Module, layer: str, pool: str, cell: int) -> PooledNet:
    return PooledNet(net.eval().requires_grad_(False), layer, pool, cell)
