"""Speed up inference on a CPU: convolutions that apply the activation after them, by oneDNN through torch.

The activation then needs no pass through memory of its own. In bfloat16 the weights are also converted and packed only
once; under autocast torch does so in every call.

A network whose values overflow must not give maps that look fine: a ReLU of torch keeps NaN, but oneDNN's makes it 0
(its SiLU keeps it). So ReLU is applied as a leaky ReLU with a negligible slope, which keeps NaN, and ReLU6 is fused
only where a bound shows that no value can overflow.

Of MobileNet-v2 at stride 16, the four scales of a photograph of 375 x 500 and their mirrored images take 1.07 instead
of 1.17 s on one core, in bfloat16 0.50 instead of 0.62 s.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from stages.nets.batch_norm_folding import LayerTracer, find_layer_pairs, outputs_agree, replace_module

# oneDNN's name of an activation, and its parameters.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("leaky_relu", [1e-20]), nn.ReLU6: ("hardtanh", [0.0, 6.0]), nn.SiLU: ("swish", [1.0])}
_MAX_PIXEL = 1e3  # of normalised images; the bound is far from overflow
_MAX_VALUE = 1e30
_OPERATIONS = ("_convolution_pointwise", "_reorder_convolution_weight", "_is_mkldnn_bf16_supported")
_PACKING_SIZE = 64  # height and width of the input that the layout of packed weights is chosen for


def can_fuse() -> bool:
    """Return whether this torch and this processor have the operations."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)


def fuse_activations(net: nn.Module) -> nn.Module:
    """Return a copy of `net`, for a CPU, whose convolutions apply ReLU, ReLU6 or SiLU themselves where one follows.

    An activation is fused if it is a module that runs once and is the only reader of a convolution, with nothing but
    `Identity` between them (which `fold_batch_norm` leaves). All other plain convolutions are replaced too, for their
    packed weights. Returns `net` itself when torch lacks the operations, or when the outputs for a random image differ
    by more than 1e-4 of their maximum.
    """
    if not can_fuse():
        return net
    fused = copy.deepcopy(net)
    modules = dict(fused.named_modules())
    can_overflow = not _has_bounded_values(net)
    activations = {name: activation for name, activation in find_layer_pairs(fused, _trace_activations)
                   if not (can_overflow and isinstance(modules[activation], nn.ReLU6))}
    for name, module in modules.items():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            activation = activations.get(name)
            replace_module(fused, name, FusedConvolution(module, type(modules[activation]) if activation else None))
            if activation:
                replace_module(fused, activation, nn.Identity())
    return fused if outputs_agree(net, fused) else net


@torch.no_grad()
def _has_bounded_values(net: nn.Module) -> bool:
    """Return whether no map of a network of convolutions, sums and pools can come near the largest float32.

    With the magnitudes of all weights, an image of the largest pixel gives the bounds of the magnitudes of all maps.
    False if the network has weights in other layers, for which this does not hold.
    """
    bounds_net, bounds = copy.deepcopy(net), []
    for module in bounds_net.modules():
        if type(module) is nn.Conv2d:
            module.register_forward_hook(lambda _module, _inputs, maps: bounds.append(float(maps.max())))
        elif next(module.parameters(recurse=False), None) is not None:
            return False
    for parameter in bounds_net.parameters():
        parameter.abs_()
    weight = next(bounds_net.parameters())
    bounds_net(torch.full((1, 3, _PACKING_SIZE, _PACKING_SIZE), _MAX_PIXEL, device=weight.device))
    return all(bound <= _MAX_VALUE for bound in bounds)


class FusedConvolution(nn.Module):
    """A convolution and the activation after it, in float32 or bfloat16 on a CPU; follows autocast."""

    def __init__(self, convolution: nn.Conv2d, activation: type[nn.Module] | None) -> None:
        super().__init__()
        self.convolution = convolution
        self.name, self.parameters_of_activation = _ACTIVATIONS[activation] if activation else ("none", [])
        self.activation = activation() if activation else nn.Identity()
        self._packed: tuple[Tensor, Tensor | None] | None = None

    @property
    def weight(self) -> Tensor:
        """The weight in float32, for code that reads the shape of a layer."""
        return self.convolution.weight

    def forward(self, images: Tensor) -> Tensor:
        """Return the activated maps (B, D', h, w) of maps (B, D, H, W)."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        if dtype == torch.float32:
            weight, bias = self.convolution.weight, self.convolution.bias
        elif dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            weight, bias = self._packed = self._packed or self._pack()
        else:
            return self.activation(self.convolution(images))
        layer: Any = self.convolution
        maps: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images.to(dtype), weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups, self.name,
            self.parameters_of_activation, "")
        return maps

    def _pack(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight in bfloat16, in the layout that oneDNN prefers, and the bias."""
        layer: Any = self.convolution
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            layer.weight.detach().to(torch.bfloat16), layer.padding, layer.stride, layer.dilation, layer.groups,
            [1, layer.in_channels, _PACKING_SIZE, _PACKING_SIZE])
        return weight, None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)


def _trace_activations(root: nn.Module) -> list[tuple[str, str]]:
    """Return the names of (convolution, activation) pairs in the traced graph whose modules run once."""
    modules = dict(root.named_modules())
    nodes = [node for node in LayerTracer().trace(root).nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in nodes)
    pairs = []
    for node in nodes:
        if type(modules[node.target]) not in _ACTIVATIONS:
            continue
        source = _find_source(node, modules)
        if source is not None and type(modules[source.target]) is nn.Conv2d \
                and num_calls[node.target] == num_calls[source.target] == 1:
            pairs.append((source.target, node.target))
    return pairs


def _find_source(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """Return the module before `node`, past any Identity, if no other layer reads it or what is in between."""
    source = node.args[0] if node.args else None
    while isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1:
        if not isinstance(modules[source.target], nn.Identity):
            return source
        source = source.args[0]
    return None
