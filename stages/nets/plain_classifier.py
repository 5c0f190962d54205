"""Whole classifiers of timm and torchvision, with their own heads, and the maps at one of their layers."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.backbone import IMAGENET_MEAN, IMAGENET_STD
from stages.nets.registry import resolve
from stages.nets.timm_backbone import ANY_SIZE
from stages.nets.weights import import_weights, read_state_dict


def plain_classifier(name: str, weights: str, n_classes: int) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """Return (net, mean, std) of a classifier of timm or torchvision with `n_classes` outputs and the file `weights`.

    Raises UsageError for an unknown network, MissingInput, BadData for weights of another network or size.
    """
    source, short = resolve(name)
    if source == "wsss":
        raise UsageError(f"--net {name} is one of ours", "give the file that train-cls wrote")
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if source == "timm":
        net = timm_model(short, n_classes)
        mean, std = tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"])
    else:
        from torchvision import models

        net = models.get_model(short, weights=None, num_classes=n_classes)
    import_weights(net, read_state_dict(weights), head_keys=(), where=weights)
    return net.eval(), mean, std


def timm_model(name: str, n_classes: int) -> Any:
    """Return a network of timm for images of any size, where it can; without classifier for `n_classes` 0."""
    import timm

    for options in ANY_SIZE:
        try:
            return timm.create_model(name, num_classes=n_classes, **options)
        except TypeError:
            continue
    raise UsageError(f"--net timm:{name} can't be built", "take another network")


def layer_of(net: nn.Module, name: str) -> nn.Module:
    """Return the module `name` of a net, also where it is written without `backbone.`; UsageError with close names."""
    modules = dict(net.named_modules())
    for spelled in (name, f"backbone.{name}", f"backbone.model.{name}"):
        if spelled and spelled in modules:
            return modules[spelled]
    close = difflib.get_close_matches(name, modules, n=4, cutoff=0.3)
    raise UsageError(f"--layer {name!r} is no layer of this net", f"give for example {', '.join(close)}" if close else
                     f"give for example {', '.join(child for child, _ in net.named_children())}")


def as_maps(output: Any, net: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return a layer's output as maps (B, D, h, w), for an input of `size`; tokens lose those before the patches.

    Raises UsageError for an output that is no map.
    """
    inner = getattr(getattr(net, "backbone", net), "model", net)
    if isinstance(output, Tensor) and output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(inner, "output_fmt", "NCHW") == "NHWC" else output
    if isinstance(output, Tensor) and output.ndim == 3:
        prefix = int(getattr(inner, "num_prefix_tokens", 1))
        cells = output.shape[1] - prefix
        height = round((cells * size[0] / size[1]) ** 0.5) if cells > 0 else 0
        if height and cells % height == 0:
            return output[:, prefix:].transpose(1, 2).unflatten(2, (height, cells // height))
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UsageError(f"--layer gives no map (its output is {shape})", "name a layer with maps (B, D, h, w) or tokens")


class Tap:
    """While entered, the output of `layer` starts a graph of its own, so that gradients end there."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self.output = layer, torch.zeros(0)

    def __enter__(self) -> Tap:
        """Begin to tap."""
        self._handle = self._layer.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the layer be as it was."""
        self._handle.remove()

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            raise UsageError(f"--layer gives no map (its output is {type(output).__name__})", "name another layer")
        self.output = output.detach().requires_grad_()
        # An activation behind it may work in place, which a leaf does not allow.
        return self.output.clone()
