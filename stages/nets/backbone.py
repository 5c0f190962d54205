"""The interface of every backbone: feature maps of several levels, input normalisation, and freezing block by block."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import UsageError

PROBE_SIZE = 128  # side in pixels of the image that networks are measured with: stride 32 leaves 4 cells
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A network without its classification layer.

    `blocks` lists the blocks that can be frozen, in order; `block_prefixes` maps each to the prefixes of its modules'
    names. `first_cell_centre` is the pixel, counted from 0 on each axis, on which the first cell of the final feature
    map is centred.
    """

    name: str
    channels: int
    stride: int
    first_cell_centre: float = 0.0
    level_channels: tuple[int, ...]
    level_strides: tuple[int, ...]
    blocks: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.mean: tuple[float, ...] = IMAGENET_MEAN
        self.std: tuple[float, ...] = IMAGENET_STD
        self.block_prefixes: dict[str, tuple[str, ...]] = {}
        self.frozen_prefixes: tuple[str, ...] = ()

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of images (B, 3, H, W) at `level_strides`, finest first.

        The last one is the final map.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the final feature map (B, D, h, w) of images (B, 3, H, W) normalised with `mean` and `std`."""
        return self.forward_levels(images)[-1]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The number of channels of each map that `forward_stages` returns."""
        return tuple(self.level_channels[level] for level in self._select_coarse_levels())

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that has stride 8 or more in the published network, finest first.

        Lowering the stride changes the sizes of these maps but, where the network can tell its stages apart, not
        which stages they come from.
        """
        maps = self.forward_levels(images)
        return [maps[level] for level in self._select_coarse_levels()]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The number of channels of each map that `forward_pyramid` returns."""
        return self.level_channels

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that has stride 2 or more in the published network, finest first.

        For a ResNet these are the stem and the four layers. Lowering the stride changes the sizes of these maps but
        not which stages they come from. Networks that start at stride 4 or later have fewer maps.
        """
        return self.forward_levels(images)

    def _select_coarse_levels(self) -> list[int]:
        """Return the indices of the levels at stride 8 or more, or only the last level when there are none."""
        levels = [level for level, stride in enumerate(self.level_strides) if stride >= 8]
        return levels or [len(self.level_strides) - 1]

    def get_output_module(self, block: str) -> nn.Module:
        """Return the module whose output is the output of a block."""
        modules = dict(self.named_modules())
        return modules[[prefix for prefix in self.block_prefixes[block] if prefix in modules][-1]]

    @cached_property
    @torch.no_grad()
    def single_output_blocks(self) -> tuple[str, ...]:
        """The blocks that run once per image and return a single tensor, found by running a black image.

        Other blocks come after the final map (the heads of timm networks) or return maps of several sizes (HRNet).
        """
        outputs_by_block: dict[str, list[Any]] = {block: [] for block in self.blocks}
        handles = [self.get_output_module(block).register_forward_hook(
            lambda _module, _inputs, output, block=block: outputs_by_block[block].append(output))
            for block in self.blocks]
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            self(torch.zeros(2, 3, PROBE_SIZE, PROBE_SIZE, device=next(self.parameters()).device))
        finally:
            for handle in handles:
                handle.remove()
            for module, training in modes.items():
                module.training = training
        return tuple(block for block, outputs in outputs_by_block.items() if len(outputs) == 1
                     and isinstance(outputs[0], Tensor) and len(outputs[0]) == 2)

    def freeze(self, until: str | int) -> None:
        """Freeze every block up to and including `until`: a name from `blocks`, or a number of blocks.

        Frozen blocks stay in evaluation mode under `train()`, so their BatchNorm statistics do not change either.
        Raises UsageError that lists the blocks when there is no such block.
        """
        num_frozen = self._count_blocks_until(until)
        prefixes = [prefix for block in self.blocks[:num_frozen] for prefix in self.block_prefixes[block]]
        self.frozen_prefixes = tuple(prefixes)
        for name, parameter in self.named_parameters():
            if has_module_prefix(name, self.frozen_prefixes):
                parameter.requires_grad_(False)
        self.train(self.training)

    def _count_blocks_until(self, until: str | int) -> int:
        """Return the number of blocks up to and including `until`. Raises UsageError for an unknown block."""
        text = str(until)
        if text in self.blocks:
            return self.blocks.index(text) + 1
        if text.isdecimal() and int(text) <= len(self.blocks):
            return int(text)
        raise UsageError(f"--freeze {until}: {self.name} has no such block",
                         f"Use --freeze with one of {', '.join(self.blocks)}, or with a number of blocks from 0 to "
                         f"{len(self.blocks)}")

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, except for the frozen blocks, which stay in evaluation mode."""
        super().train(mode)
        if self.frozen_prefixes:
            for name, module in self.named_modules():
                if has_module_prefix(name, self.frozen_prefixes):
                    module.training = False
        return self


@torch.no_grad()
def measure_first_cell_centre(net: nn.Module, run_forward: Callable[[], object], stride: int) -> float:
    """Return the pixel on which the first cell of a network's feature map is centred, given the map's `stride`.

    `run_forward` runs `net` on an image. A layer moves the centre by half its window minus its left padding, in cells
    of its input. Where several paths lead to a lower resolution, their mean counts. Any part of the stride that no
    layer is seen to apply is assumed to merge adjacent cells, as Swin does.
    """
    downsampling_shifts: dict[int, list[float]] = {}  # by input width
    same_width_shifts: dict[int, float] = {}  # by input width; layers in sequence add up, as even windows shift as well
    steps: dict[int, int] = {}

    def record_shift(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        step, width = _get_horizontal(layer.stride), inputs[0].shape[-1]
        shift = _compute_centre_shift(layer, width, output.shape[-1])
        if step > 1 or output.shape[-1] != width:
            downsampling_shifts.setdefault(width, []).append(shift)
            steps[width] = max(step, steps.get(width, 1))
        elif isinstance(layer, nn.Conv2d):
            same_width_shifts[width] = same_width_shifts.get(width, 0.0) + shift

    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))]
    handles = [layer.register_forward_hook(record_shift) for layer in layers]
    try:
        run_forward()
    finally:
        for handle in handles:
            handle.remove()
    jump, centre = 1, 0.0
    for width in sorted({*downsampling_shifts, *same_width_shifts}, reverse=True):
        shifts = downsampling_shifts.get(width, [0.0])
        centre += jump * (same_width_shifts.get(width, 0.0) + sum(shifts) / len(shifts))
        jump *= steps.get(width, 1)
    return centre + jump * (stride / jump - 1) / 2 if jump <= stride else centre


def _compute_centre_shift(layer: Any, width: int, map_size: int) -> float:
    """Return by how many input cells a layer moves the centre of the first cell, for an input of `width` cells.

    timm's TensorFlow-style layers pad by themselves, by an amount that depends on the input's width, and report 0.
    """
    reach = _get_horizontal(getattr(layer, "dilation", 1)) * (_get_horizontal(layer.kernel_size) - 1)
    if layer.padding == "same":
        return reach / 2 - reach // 2
    left = 0 if layer.padding == "valid" else _get_horizontal(layer.padding)
    if left == 0 and not getattr(layer, "ceil_mode", False):
        left = max((map_size - 1) * _get_horizontal(layer.stride) + reach + 1 - width, 0) // 2
    return reach / 2 - left


def _get_horizontal(value: Any) -> int:
    """Return the horizontal component of a layer setting that is a number or a (vertical, horizontal) pair."""
    return int(value[-1] if isinstance(value, tuple) else value)


class FixedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that always uses its running statistics, even in training mode (IRN; DeepLab-v2)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps (B, D, h, w) with the running mean and variance."""
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def has_module_prefix(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether the dotted `name` is one of `prefixes` or lies below one of them."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def estimate_stride(size: int, map_size: int) -> int:
    """Return the stride of a map `map_size` cells wide for an image `size` pixels wide: the nearest power of two."""
    ratio = torch.log2(torch.tensor(size / max(map_size, 1), device="cpu"))
    return 2 ** int(ratio.round())


def check_stride(name: str, stride: int | None, native_stride: int) -> None:
    """Raise UsageError when `stride` is neither None nor the only stride that the network supports."""
    if stride not in (None, native_stride):
        raise UsageError(f"--stride {stride}: {name} supports only stride {native_stride}",
                         f"Omit --stride or use --stride {native_stride}")
