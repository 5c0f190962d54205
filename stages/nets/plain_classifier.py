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

_MOST_PREFIX_TOKENS = 17  # a class token and 16 registers


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
    """Return a layer's output as maps (B, D, h, w), guessed from its shape, for an input of `size`.

    Axes in the ratio of the image's sides are rows and columns; where several are, the network's own format counts.
    Tokens lose as many before the patches as the network says it has, else the fewest that leave a grid of that ratio.
    `layer_maps` knows better for networks that take images of several sizes. Raises UsageError for an output that is
    no map.
    """
    inner = getattr(getattr(net, "backbone", net), "model", net)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if isinstance(output, Tensor) and output.ndim == 4:
        first, last = (output.shape[axis] * size[1] == output.shape[axis + 1] * size[0] for axis in (2, 1))
        is_last = last if first != last else getattr(inner, "output_fmt", "NCHW") == "NHWC"
        return output.permute(0, 3, 1, 2) if is_last else output
    if isinstance(output, Tensor) and output.ndim == 3:
        for prefix in (int(getattr(inner, "num_prefix_tokens", 1)), *range(_MOST_PREFIX_TOKENS)):
            cells = output.shape[1] - prefix
            height = round((cells * size[0] / size[1]) ** 0.5) if cells > 0 else 0
            if height and cells % height == 0 and height * size[1] == cells // height * size[0]:
                return output[:, prefix:].transpose(1, 2).unflatten(2, (height, cells // height))
    raise no_map(shape)


def no_map(shape: object) -> UsageError:
    """Return the error for a layer whose output is no map."""
    return UsageError(f"--layer gives no map (its output is {shape})",
                      "name a layer with maps (B, D, h, w), (B, h, w, D) or tokens")


def run_net(net: nn.Module, images: Tensor, advice: str) -> Tensor:
    """Return the net's output for images (B, 3, H, W).

    Raises UsageError with `advice`, in which {size} is the side that the network was made for, for a size that it
    can't take; any other fault stays what it is.
    """
    try:
        return net(images)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        size = getattr(net, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1]
        if "memory" in str(error) or not _takes(net, images, size):
            raise
        why = (str(error).splitlines() or [""])[0]
        raise UsageError(f"--net: the network takes no pictures of {images.shape[-2]} x {images.shape[-1]} pixels "
                         f"({why})", advice.format(size=size)) from error


def _takes(net: nn.Module, images: Tensor, size: int) -> bool:
    """Return whether the network works at all, at the size that it is made for."""
    try:
        net(images.new_zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def input_cell(net: nn.Module) -> int:
    """Return the pixels that the sides of an image must be multiples of.

    32, which most networks can halve to the end, or a patch that 32 is no multiple of (DINOv2's 14).
    """
    stride = getattr(getattr(getattr(net, "patch_embed", None), "proj", None), "stride", (1,))
    return int(stride[0]) if 32 % stride[0] else 32


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
