"""The maps at one layer of any network: which axes of its output are rows and columns, and whether gradients reach it.

A network tells neither. Swin's blocks have (B, h, w, D), its patch embedding (B, D, h, w) or tokens, a ViT's blocks
tokens with class and register tokens before them and its patch embedding tokens without. So the layer is watched while
images of three sizes pass: the axis that grows with their height is that of the rows, the one that grows with their
width that of the columns, and what does not grow is channels or tokens that are no patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.plain_classifier import Tap, as_maps, no_map

_LEAST_SIDE = 128  # pixels of the images that a layer is watched with; stride 32 leaves 4 cells
_SIZE_ERRORS = (AssertionError, RuntimeError, ValueError)


class Layout(NamedTuple):
    """How a layer's output is laid out: `axes` is NCHW, NHWC, NLC or NCL (L tokens).

    Of tokens `prefix` is how many come before the patches, `cell` the side of a patch in pixels.
    """

    axes: str
    prefix: int = 0
    cell: float = 0.0


def layout_of(base: Sequence[int], tall: Sequence[int], wide: Sequence[int], size: tuple[int, int]) -> Layout | None:
    """Return the layout of a layer by its output's shapes for one image of `size` (H, W), of (2H, W) and of (H, 2W).

    None where the output is no map: it does not grow with the image, or its batch does (windows of an attention).
    """
    if len({len(base), len(tall), len(wide)}) > 1:
        return None
    rows = [axis for axis, (before, after) in enumerate(zip(base, tall, strict=True)) if before != after]
    columns = [axis for axis, (before, after) in enumerate(zip(base, wide, strict=True)) if before != after]
    if len(base) == 4 and (rows, columns) in (([2], [3]), ([1], [2])):
        return Layout("NCHW" if rows == [2] else "NHWC")
    if len(base) != 3 or rows != columns or rows not in ([1], [2]):
        return None
    patches = tall[rows[0]] - base[rows[0]]
    prefix = base[rows[0]] - patches
    if prefix < 0 or patches != wide[rows[0]] - base[rows[0]]:
        return None
    return Layout("NLC" if rows == [1] else "NCL", prefix, math.sqrt(size[0] * size[1] / patches))


class LayerMaps:
    """Turns the output of a layer into maps (B, D, h, w).

    A network that takes images of one size only can't be watched so: its layout is then guessed from the shape.
    """

    def __init__(self, net: nn.Module, layer: nn.Module, cell: int) -> None:
        """Take the net in evaluation mode, and the `cell` in pixels that images must have multiples of."""
        self.net, self.layer, self._cell = net, layer, cell
        self._layout: Layout | None = None
        self._watched = False

    def __call__(self, output: Any, size: tuple[int, int]) -> Tensor:
        """Return the maps (B, D, h, w) of the layer's output for images of `size`. Raises UsageError for no map."""
        layout = self._watch()
        if layout is None:
            return as_maps(output, self.net, size)
        if layout.axes == "NCHW":
            return output
        if layout.axes == "NHWC":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, layout.prefix:].transpose(1, 2) if layout.axes == "NLC" else output[:, :, layout.prefix:]
        return tokens.unflatten(2, _grid(tokens.shape[2], layout.cell, size, output))

    def prefix(self, output: Any) -> Tensor:
        """Return the tokens (B, P, D) before the patches in the layer's output. Raises UsageError where it has none."""
        layout = self._watch()
        if layout is None or layout.axes != "NLC" or not layout.prefix:
            raise UsageError("--pool class-token: this layer has no class token", "name a block of a vision "
                             "transformer by --layer, or give --pool mean")
        return output[:, :layout.prefix]

    def _watch(self) -> Layout | None:
        """Return the layout, None where the network takes one size only. Raises UsageError for a layer without maps."""
        if not self._watched:
            shapes = watch_shapes(self.net, {"": self.layer}, self._cell)
            if shapes is not None:
                base, tall, wide = (of_size.get("") for of_size in shapes)
                if base is None or tall is None or wide is None:
                    raise UsageError("--layer gives no map: no image passes it, or its output is no tensor",
                                     "name another layer")
                self._layout = layout_of(base, tall, wide, _base_size(self._cell))
                if self._layout is None:
                    raise no_map(base)
            self._watched = True
        return self._layout

    def check_gradients(self, size: tuple[int, int]) -> None:
        """Raise UsageError, with a layer that works, where the classes have no gradient at any patch of this layer.

        Noise of `size` decides it, so that an image without a gradient for some class is not taken for that.
        """
        noise = _noise(self.net, size)
        if self._has_gradients(noise):
            return
        with torch.autocast(noise.device.type, enabled=False):
            if self._has_gradients(noise):
                raise UsageError("the gradients vanish at this layer in half precision",
                                 "give --precision bf16 or fp32")
            better = suggest_layer(self.net, self._cell, noise)
        raise UsageError("--layer: no gradient of the classes reaches the patches at this layer, so its maps would be "
                         "0 everywhere", f"give for example --layer {better}" if better else
                         "no layer has one: look at the weights of the network")

    def _has_gradients(self, images: Tensor) -> bool:
        with Tap(self.layer) as tap, torch.enable_grad():
            logits = self.net(images)
        gradient = gradients_at(logits, tap.output, _class_weights(logits)[None])
        return gradient is not None and bool(self(gradient[0], (images.shape[-2], images.shape[-1])).any())


def gradients_at(logits: Tensor, output: Tensor, cotangents: Tensor) -> Tensor | None:
    """Return the gradients (K, *output.shape) of K sums of logits (B, C), by their cotangents (K, B, C).

    None where the logits do not depend on `output`.
    """
    if not logits.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(logits, output, cotangents, is_grads_batched=True, allow_unused=True)
    return gradient


def suggest_layer(net: nn.Module, cell: int, images: Tensor) -> str:
    """Return the name of the last layer whose output has maps with gradients of the logits; empty if there is none.

    Layers that norm or convolve, and those with layers of their own, are looked at: their outputs have names in papers.
    """
    modules = {name: module for name, module in net.named_modules()
               if name and (any(True for _ in module.children()) or "Norm" in type(module).__name__
                            or isinstance(module, nn.Conv2d))}
    shapes = watch_shapes(net, modules, cell)
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.pop(name, None)
            outputs[name] = output

    handles = [module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
               for name, module in modules.items()]
    try:
        with torch.enable_grad():
            logits = net(images.clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    if not logits.requires_grad:
        return ""
    weights = _class_weights(logits)
    size = (images.shape[-2], images.shape[-1])
    for name, output in reversed(outputs.items()):
        (gradient,) = torch.autograd.grad(logits, output, weights, retain_graph=True, allow_unused=True)
        maps = None if gradient is None else _maps_or_none(gradient, name, shapes, net, cell, size)
        if maps is not None and bool(maps.any()):
            return name.removeprefix("backbone.").removeprefix("model.")
    return ""


def _class_weights(logits: Tensor) -> Tensor:
    """Return random weights of logits (B, C), so that the gradients of the classes do not cancel."""
    return torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)


def _maps_or_none(gradient: Tensor, name: str, shapes: Any, net: nn.Module, cell: int,
                  size: tuple[int, int]) -> Tensor | None:
    """Return a gradient as maps; None where the layer has none."""
    try:
        if shapes is None:
            return as_maps(gradient, net, size)
        every = [of_size.get(name) for of_size in shapes]
        layout = None if None in every else layout_of(*every, _base_size(cell))
        if layout is None:
            return None
        return gradient[:, layout.prefix:] if layout.axes == "NLC" else gradient
    except UsageError:
        return None


@torch.no_grad()
def watch_shapes(net: nn.Module, modules: Mapping[str, nn.Module],
                 cell: int) -> list[dict[str, tuple[int, ...]]] | None:
    """Return the shapes of the last outputs of `modules` for images of three sizes: (H, W), (2H, W) and (H, 2W).

    None where the network refuses one of the sizes. Modules without a tensor as output are left out.
    """
    height, width = _base_size(cell)
    found = []
    for size in ((height, width), (2 * height, width), (height, 2 * width)):
        shapes: dict[str, tuple[int, ...]] = {}
        handles = [module.register_forward_hook(
            lambda _module, _inputs, output, name=name, shapes=shapes: shapes.update({name: tuple(output.shape)})
            if isinstance(output, Tensor) else None) for name, module in modules.items()]
        try:
            net(_noise(net, size, 1))
        except torch.OutOfMemoryError:
            raise
        except _SIZE_ERRORS:
            return None
        finally:
            for handle in handles:
                handle.remove()
        found.append(shapes)
    return found


def _base_size(cell: int) -> tuple[int, int]:
    count = -(-_LEAST_SIDE // cell)
    return count * cell, (count + 1) * cell


def _noise(net: nn.Module, size: tuple[int, int], batch: int = 2) -> Tensor:
    """Return seeded noise (B, 3, H, W), each image of another strength, of the type of the network's weights."""
    parameter = next(net.parameters())
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    strength = 0.5 ** torch.arange(batch)[:, None, None, None]
    return (noise * strength).to(parameter.device, parameter.dtype)


def _grid(n_patches: int, cell: float, size: tuple[int, int], output: Tensor) -> tuple[int, int]:
    """Return (h, w), the grid of an image's patches of `cell` pixels; those cut by the border may count or not."""
    for height in sorted({round(size[0] / cell), math.ceil(size[0] / cell), math.floor(size[0] / cell)}):
        if height and n_patches % height == 0 and abs(n_patches // height - size[1] / cell) < 1:
            return height, n_patches // height
    raise no_map(tuple(output.shape))
