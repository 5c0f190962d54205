"""The maps at one layer of any network: which axes of its output are rows and columns, and whether gradients reach it.

Networks do not declare either. Swin's blocks return (B, h, w, D), its patch embedding (B, D, h, w) or tokens; a ViT's
blocks return tokens with class and register tokens first, its patch embedding tokens without them. So the shapes of the
layer's output are recorded for images of three sizes: the axis that grows with the height holds the rows, the one that
grows with the width the columns, and what does not grow is channels or tokens that are not patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.library_classifier import OutputTap, build_no_map_error, reshape_to_maps

_MIN_PROBE_SIDE = 128  # pixels of the images that shapes are recorded for; stride 32 leaves 4 cells
_SIZE_ERRORS = (AssertionError, RuntimeError, ValueError)


class OutputLayout(NamedTuple):
    """The layout of a layer's output: `axes` is NCHW, NHWC, NLC or NCL (L tokens).

    For tokens, `num_prefix_tokens` is how many come before the patches and `cell` the side of a patch in pixels.
    """

    axes: str
    num_prefix_tokens: int = 0
    cell: float = 0.0


def infer_layout(base: Sequence[int], tall: Sequence[int], wide: Sequence[int],
                 size: tuple[int, int]) -> OutputLayout | None:
    """Infer a layer's layout from its output's shapes for one image of `size` (H, W), of (2H, W) and of (H, 2W).

    Return None if the output is not a map: it does not grow with the image, or its batch axis holds parts of the image.
    """
    if len({len(base), len(tall), len(wide)}) > 1 or base[0] != 1:
        return None
    rows = [axis for axis, (before, after) in enumerate(zip(base, tall, strict=True)) if before != after]
    columns = [axis for axis, (before, after) in enumerate(zip(base, wide, strict=True)) if before != after]
    if len(base) == 4 and (rows, columns) in (([2], [3]), ([1], [2])):
        return OutputLayout("NCHW" if rows == [2] else "NHWC")
    if len(base) != 3 or rows != columns or rows not in ([1], [2]):
        return None
    num_patches = tall[rows[0]] - base[rows[0]]
    num_prefix_tokens = base[rows[0]] - num_patches
    if num_prefix_tokens < 0 or num_patches != wide[rows[0]] - base[rows[0]]:
        return None
    cell = math.sqrt(size[0] * size[1] / num_patches)
    return OutputLayout("NLC" if rows == [1] else "NCL", num_prefix_tokens, cell)


class LayerMapExtractor:
    """Turns the output of a layer into maps (B, D, h, w).

    If the network accepts images of one size only, the layout is guessed from the shape of the output instead.
    """

    def __init__(self, net: nn.Module, layer: nn.Module, cell: int) -> None:
        """`net` is in evaluation mode; image sides must be multiples of `cell` pixels."""
        self.net, self.layer, self._cell = net, layer, cell
        self._layout: OutputLayout | None = None
        self._is_layout_inferred = False

    def __call__(self, output: Any, size: tuple[int, int]) -> Tensor:
        """Return the maps (B, D, h, w) of the layer's output for images of `size`. Raises UsageError if it is none."""
        layout = self._get_layout()
        if layout is None:
            return reshape_to_maps(output, self.net, size)
        if layout.axes == "NCHW":
            return output
        if layout.axes == "NHWC":
            return output.permute(0, 3, 1, 2)
        tokens = output.transpose(1, 2) if layout.axes == "NLC" else output
        tokens = tokens[:, :, layout.num_prefix_tokens:]
        return tokens.unflatten(2, _compute_patch_grid(tokens.shape[2], layout.cell, size, output))

    def select_prefix_tokens(self, output: Any) -> Tensor:
        """Return the tokens (B, P, D) before the patches in the layer's output. Raises UsageError if it has none."""
        layout = self._get_layout()
        if layout is None or layout.axes != "NLC" or not layout.num_prefix_tokens:
            raise UsageError("--pool class-token: this layer has no class token",
                             "Give --layer a block of a vision transformer, or use --pool mean")
        return output[:, :layout.num_prefix_tokens]

    def _get_layout(self) -> OutputLayout | None:
        """Return the layout, inferred at the first call; None if the network accepts one image size only.

        Raises UsageError for a layer without maps.
        """
        if not self._is_layout_inferred:
            shapes = record_output_shapes(self.net, {"": self.layer}, self._cell)
            if shapes is not None:
                base, tall, wide = (size_shapes.get("") for size_shapes in shapes)
                if base is None or tall is None or wide is None:
                    raise UsageError("--layer: this layer gives no map: the forward pass does not reach it, or its "
                                     "output is not a tensor", "Give --layer another layer")
                self._layout = infer_layout(base, tall, wide, _compute_probe_size(self._cell))
                if self._layout is None:
                    raise build_no_map_error(base)
            self._is_layout_inferred = True
        return self._layout

    def check_gradients(self, size: tuple[int, int]) -> None:
        """Raise UsageError, suggesting a layer that works, if the classes have no gradient at any patch of this layer.

        The check uses noise of `size`, since one image may happen to have no gradient for some class.
        """
        noise = _draw_noise(self.net, size)
        if self._has_gradients(noise):
            return
        with torch.autocast(noise.device.type, enabled=False):
            if self._has_gradients(noise):
                raise UsageError("--layer: the gradients vanish at this layer in half precision",
                                 "Use --precision bf16 or fp32")
            suggestion = suggest_layer(self.net, self._cell, noise)
        raise UsageError("--layer: no gradient of the classes reaches the patches at this layer, so its maps would be "
                         "0 everywhere", f"Use for example --layer {suggestion}" if suggestion else
                         "Check the weights of the network: no layer of it has such a gradient")

    def _has_gradients(self, images: Tensor) -> bool:
        with OutputTap(self.layer) as tap, torch.enable_grad():
            logits = self.net(images)
        gradient = compute_class_gradients(logits, tap.output, _draw_class_weights(logits)[None])
        return gradient is not None and bool(self(gradient[0], (images.shape[-2], images.shape[-1])).any())


def compute_class_gradients(logits: Tensor, output: Tensor, cotangents: Tensor) -> Tensor | None:
    """Return the gradients (K, *output.shape) of K sums of logits (B, C) weighted by the cotangents (K, B, C).

    Return None if the logits do not depend on `output`.
    """
    if not logits.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(logits, output, cotangents, is_grads_batched=True, allow_unused=True)
    return gradient


def suggest_layer(net: nn.Module, cell: int, images: Tensor) -> str:
    """Return the name of the last layer whose output is a map with gradients of the logits; "" if there is none.

    Candidates are norms, convolutions and layers that contain others: papers refer to their outputs by name.
    """
    modules = {name: module for name, module in net.named_modules()
               if name and (any(True for _ in module.children()) or "Norm" in type(module).__name__
                            or isinstance(module, nn.Conv2d))}
    shapes = record_output_shapes(net, modules, cell)
    outputs: dict[str, Tensor] = {}

    def record_output(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            outputs.pop(name, None)
            outputs[name] = output

    handles = [module.register_forward_hook(lambda _module, _inputs, output, name=name: record_output(name, output))
               for name, module in modules.items()]
    try:
        with torch.enable_grad():
            logits = net(images.clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    if not logits.requires_grad:
        return ""
    weights = _draw_class_weights(logits)
    size = (images.shape[-2], images.shape[-1])
    for name, output in reversed(outputs.items()):
        (gradient,) = torch.autograd.grad(logits, output, weights, retain_graph=True, allow_unused=True)
        maps = None if gradient is None else _try_reshape_to_maps(gradient, name, shapes, net, cell, size)
        if maps is not None and bool(maps.any()):
            return name.removeprefix("backbone.").removeprefix("model.")
    return ""


def _draw_class_weights(logits: Tensor) -> Tensor:
    """Draw seeded random weights for logits (B, C), so that the gradients of the classes do not cancel."""
    return torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)


def _try_reshape_to_maps(gradient: Tensor, name: str, shapes: Any, net: nn.Module, cell: int,
                         size: tuple[int, int]) -> Tensor | None:
    """Return the gradient of layer `name` as maps; None if the layer has no maps."""
    try:
        if shapes is None:
            return reshape_to_maps(gradient, net, size)
        layer_shapes = [size_shapes.get(name) for size_shapes in shapes]
        layout = None if None in layer_shapes else infer_layout(*layer_shapes, _compute_probe_size(cell))
        if layout is None:
            return None
        return gradient[:, layout.num_prefix_tokens:] if layout.axes == "NLC" else gradient
    except UsageError:
        return None


@torch.no_grad()
def record_output_shapes(net: nn.Module, modules: Mapping[str, nn.Module],
                         cell: int) -> list[dict[str, tuple[int, ...]]] | None:
    """Return the shapes of the last outputs of `modules` for images of three sizes: (H, W), (2H, W) and (H, 2W).

    Return None if the network does not accept one of the sizes. Modules whose output is not a tensor are omitted.
    """
    height, width = _compute_probe_size(cell)
    shapes_per_size = []
    for size in ((height, width), (2 * height, width), (height, 2 * width)):
        shapes: dict[str, tuple[int, ...]] = {}
        handles = [module.register_forward_hook(
            lambda _module, _inputs, output, name=name, shapes=shapes: shapes.update({name: tuple(output.shape)})
            if isinstance(output, Tensor) else None) for name, module in modules.items()]
        try:
            net(_draw_noise(net, size, 1))
        except torch.OutOfMemoryError:
            raise
        except _SIZE_ERRORS:
            return None
        finally:
            for handle in handles:
                handle.remove()
        shapes_per_size.append(shapes)
    return shapes_per_size


def _compute_probe_size(cell: int) -> tuple[int, int]:
    """Return the smallest size (H, W) in whole cells with H >= 128 pixels and W one cell more, so that H != W."""
    num_cells = -(-_MIN_PROBE_SIDE // cell)
    return num_cells * cell, (num_cells + 1) * cell


def _draw_noise(net: nn.Module, size: tuple[int, int], batch: int = 2) -> Tensor:
    """Draw seeded noise (B, 3, H, W) in the dtype of the weights, each image at half the amplitude of the last."""
    parameter = next(net.parameters())
    noise = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    strength = 0.5 ** torch.arange(batch)[:, None, None, None]
    return (noise * strength).to(parameter.device, parameter.dtype)


def _compute_patch_grid(num_patches: int, cell: float, size: tuple[int, int], output: Tensor) -> tuple[int, int]:
    """Return (h, w), the grid of an image's patches of `cell` pixels, with or without those cut by the border."""
    for height in sorted({round(size[0] / cell), math.ceil(size[0] / cell), math.floor(size[0] / cell)}):
        if height and num_patches % height == 0 and abs(num_patches // height - size[1] / cell) < 1:
            return height, num_patches // height
    raise build_no_map_error(tuple(output.shape))
