"""Classifiers of timm and torchvision with their own heads, and the maps at one of their layers."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import BadData, UsageError
from stages.nets.backbone import IMAGENET_MEAN, IMAGENET_STD
from stages.nets.registry import resolve_backbone_name
from stages.nets.timm_backbone import ANY_SIZE_OPTIONS
from stages.nets.torchvision_import import import_torchvision_models
from stages.nets.weights import import_weights, read_state_dict

_MAX_PREFIX_TOKENS = 17  # a class token and 16 registers


def load_library_classifier(name: str, weights: str,
                            num_classes: int) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """Return (net, mean, std) of a timm or torchvision classifier with `num_classes` outputs and the file `weights`.

    Raises UsageError for an unknown network, MissingInput, BadData for weights of another network or size.
    """
    source, short_name = resolve_backbone_name(name)
    if source == "wsss":
        raise UsageError(f"--net {name}: this is a backbone of wsss, not a classifier of timm or torchvision",
                         "Give --net the file that `wsss train-cls` wrote for it, without --weights")
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if source == "timm":
        net = create_timm_model(short_name, num_classes)
        mean, std = tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"])
    else:
        models = import_torchvision_models()

        net = models.get_model(short_name, weights=None, num_classes=num_classes)
    import_weights(net, read_state_dict(weights), head_keys=(), where=weights)
    return net.eval(), mean, std


def read_imagenet_classes(name: str, weights: str) -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes in the order of the outputs, if the weights are a network for these.

    Raises UsageError if they are not, and the errors of `load_library_classifier` for an unknown network.
    """
    models = import_torchvision_models()

    classes = tuple(models.get_weight("ResNet50_Weights.IMAGENET1K_V1").meta["categories"])
    try:
        load_library_classifier(name, weights, len(classes))
    except BadData as error:
        raise UsageError(f"image files have no classes, and {weights} is not a network of ImageNet's {len(classes)} "
                         f"classes ({error.message})", "Name its classes with --names FILE, one per line") from error
    return classes


def create_timm_model(name: str, num_classes: int) -> Any:
    """Create a timm network, for images of any size if it can; without classifier if `num_classes` is 0."""
    import timm

    for options in ANY_SIZE_OPTIONS:
        try:
            return timm.create_model(name, num_classes=num_classes, **options)
        except TypeError:
            continue
    raise UsageError(f"--net timm:{name}: timm cannot build this network", "Choose another network for --net")


def find_layer(net: nn.Module, name: str) -> nn.Module:
    """Return the module `name` of a network; the prefix `backbone.` may be omitted.

    Raises UsageError with similar names.
    """
    modules = dict(net.named_modules())
    for full_name in (name, f"backbone.{name}", f"backbone.model.{name}"):
        if full_name and full_name in modules:
            return modules[full_name]
    suggestions = difflib.get_close_matches(name, modules, n=4, cutoff=0.3)
    suggestions = suggestions or [child for child, _ in net.named_children()]
    raise UsageError(f"--layer {name!r}: this network has no such layer",
                     f"Give --layer a name such as {', '.join(suggestions)}")


def reshape_to_maps(output: Any, net: nn.Module, size: tuple[int, int]) -> Tensor:
    """Reshape a layer's output to maps (B, D, h, w), guessing the layout from its shape, for an input of `size`.

    The axes with the aspect ratio of the image are rows and columns; if several pairs of axes are, the network's
    declared format decides. Tokens before the patches are dropped: as many as the network declares, else the fewest
    that leave a grid of that ratio. `layer_maps` infers the layout reliably for networks that accept several sizes.
    Raises UsageError if the output is not a map; a single cell is not a map either, but a class token or a pooled
    vector.
    """
    inner = getattr(getattr(net, "backbone", net), "model", net)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if isinstance(output, Tensor) and output.ndim == 4 and max(sorted(output.shape[1:])[:2]) > 1:
        fits_nchw, fits_nhwc = (output.shape[axis] * size[1] == output.shape[axis + 1] * size[0] for axis in (2, 1))
        is_nhwc = fits_nhwc if fits_nchw != fits_nhwc else getattr(inner, "output_fmt", "NCHW") == "NHWC"
        return output.permute(0, 3, 1, 2) if is_nhwc else output
    if isinstance(output, Tensor) and output.ndim == 3:
        for num_prefix_tokens in (int(getattr(inner, "num_prefix_tokens", 1)), *range(_MAX_PREFIX_TOKENS)):
            num_cells = output.shape[1] - num_prefix_tokens
            height = round((num_cells * size[0] / size[1]) ** 0.5) if num_cells > 1 else 0
            if height and num_cells % height == 0 and height * size[1] == num_cells // height * size[0]:
                return output[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, (height, num_cells // height))
    raise build_no_map_error(shape)


def build_no_map_error(shape: object) -> UsageError:
    """Return the error for a layer whose output is not a map."""
    return UsageError(f"--layer: this layer gives no map (its output is {shape})",
                      "Give --layer a layer whose output is a map (B, D, h, w) or (B, h, w, D), or tokens")


def run_net(net: nn.Module, images: Tensor, remedy: str) -> Tensor:
    """Return the network's output for images (B, 3, H, W).

    Raises UsageError with `remedy`, in which {size} is the side that the network was built for, if the network does
    not accept the size of the images; any other error is raised unchanged.
    """
    try:
        return net(images)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        size = getattr(net, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-1]
        if "memory" in str(error) or not _accepts_size(net, images, size):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"--net: the network accepts no images of {images.shape[-2]} x {images.shape[-1]} pixels "
                         f"({reason})", remedy.format(size=size)) from error


def _accepts_size(net: nn.Module, images: Tensor, size: int) -> bool:
    """Return whether the network runs on images of `size` x `size` pixels on the device of `images`."""
    try:
        net(images.new_zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def find_size_divisor(net: nn.Module) -> int:
    """Return the number of pixels that the sides of an image must be multiples of.

    It is 32, which most networks can halve at every stage, or the patch size if it does not divide 32 (DINOv2: 14).
    """
    stride = getattr(getattr(getattr(net, "patch_embed", None), "proj", None), "stride", (1,))
    return int(stride[0]) if 32 % stride[0] else 32


class OutputTap:
    """A context in which the output of `layer` is the leaf of a new autograd graph, so that gradients end there."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self.output = layer, torch.zeros(0)

    def __enter__(self) -> OutputTap:
        """Install the hook."""
        self._handle = self._layer.register_forward_hook(self._record_output)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hook."""
        self._handle.remove()

    def _record_output(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            raise UsageError(f"--layer: this layer gives no map (its output is {type(output).__name__})",
                             "Give --layer another layer")
        self.output = output.detach().requires_grad_()
        # A following activation may work in place, which autograd does not allow on a leaf.
        return self.output.clone()
