"""What every backbone offers: a final map, the maps before it, its normalisation, and freezing by blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import UsageError

PROBE = 128  # pixels of the picture that networks are measured with: stride 32 leaves 4 cells
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A network without its classification layer.

    `blocks` lists the freezable stages in order; `block_prefixes` says which modules belong to each; `first_centre` is
    the pixel, from 0 in each axis, that the first cell of the final map is centred on.
    """

    name: str
    channels: int
    stride: int
    first_centre: float = 0.0
    level_channels: tuple[int, ...]
    level_strides: tuple[int, ...]
    blocks: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.mean: tuple[float, ...] = IMAGENET_MEAN
        self.std: tuple[float, ...] = IMAGENET_STD
        self.block_prefixes: dict[str, tuple[str, ...]] = {}
        self.frozen_prefixes: tuple[str, ...] = ()

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W), fine to coarse, at `level_strides`; the last is the final map."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the final map (B, D, h, w) of images (B, 3, H, W), normalised with `mean` and `std`."""
        return self.levels(images)[-1]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The channels of `stage_maps`."""
        return tuple(channels for channels, _ in self._coarse())

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that the network as published has at stride 8 or more, fine to coarse.

        A lowered stride changes their sizes and not which they are, where the network tells them apart.
        """
        maps = self.levels(images)
        return [maps[place] for _, place in self._coarse()]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The channels of `pyramid`."""
        return self.level_channels

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage from stride 2 on that the network as published has, fine to coarse.

        Of a ResNet those are its stem and its four layers. A lowered stride changes their sizes and not which they
        are. Networks that begin at stride 4 or later have fewer.
        """
        return self.levels(images)

    def _coarse(self) -> list[tuple[int, int]]:
        """Return (channels, position among the levels) of the maps at stride 8 or more, else of the last."""
        found = [(channels, place) for place, (channels, stride)
                 in enumerate(zip(self.level_channels, self.level_strides, strict=True)) if stride >= 8]
        return found or [(self.channels, len(self.level_strides) - 1)]

    def last_module(self, block: str) -> nn.Module:
        """Return the module whose output is that of a block."""
        modules = dict(self.named_modules())
        return modules[[prefix for prefix in self.block_prefixes[block] if prefix in modules][-1]]

    @cached_property
    @torch.no_grad()
    def passed_blocks(self) -> tuple[str, ...]:
        """The blocks that every image passes once and that hand on one tensor, by a pass of a black picture.

        Others lie behind the final map (timm's heads), or hand on maps of several sizes (HRNet).
        """
        seen: dict[str, list[Any]] = {block: [] for block in self.blocks}
        handles = [self.last_module(block).register_forward_hook(
            lambda _module, _inputs, output, block=block: seen[block].append(output)) for block in self.blocks]
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            self(torch.zeros(2, 3, PROBE, PROBE, device=next(self.parameters()).device))
        finally:
            for handle in handles:
                handle.remove()
            for module, training in modes.items():
                module.training = training
        return tuple(block for block, outputs in seen.items() if len(outputs) == 1
                     and isinstance(outputs[0], Tensor) and len(outputs[0]) == 2)

    def freeze(self, until: str | int) -> None:
        """Freeze every block up to and including `until`, a name of `blocks` or how many of them.

        Frozen blocks also keep their BatchNorm statistics: they stay in evaluation mode under `train()`.
        Raises UsageError naming the blocks.
        """
        last = self._count_of(until)
        prefixes = [prefix for block in self.blocks[:last] for prefix in self.block_prefixes[block]]
        self.frozen_prefixes = tuple(prefixes)
        for name, parameter in self.named_parameters():
            if under(name, self.frozen_prefixes):
                parameter.requires_grad_(False)
        self.train(self.training)

    def _count_of(self, until: str | int) -> int:
        known = f"give one of {', '.join(self.blocks)}, or a count from 0 to {len(self.blocks)}"
        text = str(until)
        if text in self.blocks:
            return self.blocks.index(text) + 1
        if text.isdecimal() and int(text) <= len(self.blocks):
            return int(text)
        raise UsageError(f"--freeze {until}: {self.name} has no such block", known)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode, in which the frozen blocks stay in evaluation mode."""
        super().train(mode)
        if self.frozen_prefixes:
            for name, module in self.named_modules():
                if under(name, self.frozen_prefixes):
                    module.training = False
        return self


@torch.no_grad()
def centre_of(net: nn.Module, pass_through: Callable[[], object], stride: int) -> float:
    """Return the pixel that the first cell of a network's map is centred on, for its `stride`.

    `pass_through` puts an image through `net`. A layer moves the centre by half its window less what it pads to the
    left, in its input's cells; where there are several ways to a lower stride it is their mean. What no layer is seen
    to do of the stride is taken to join cells that lie side by side, as Swin does.
    """
    seen: dict[int, list[float]] = {}  # by the width of the input
    beside: dict[int, float] = {}  # of layers that keep the width, one after the other: even windows move as well
    steps: dict[int, int] = {}

    def watch(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        step, width = _of_columns(layer.stride), inputs[0].shape[-1]
        moved = _moved(layer, width, output.shape[-1])
        if step > 1 or output.shape[-1] != width:
            seen.setdefault(width, []).append(moved)
            steps[width] = max(step, steps.get(width, 1))
        elif isinstance(layer, nn.Conv2d):
            beside[width] = beside.get(width, 0.0) + moved

    layers = [one for one in net.modules() if isinstance(one, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))]
    handles = [one.register_forward_hook(watch) for one in layers]
    try:
        pass_through()
    finally:
        for handle in handles:
            handle.remove()
    jump, centre = 1, 0.0
    for width in sorted({*seen, *beside}, reverse=True):
        moves = seen.get(width, [0.0])
        centre += jump * (beside.get(width, 0.0) + sum(moves) / len(moves))
        jump *= steps.get(width, 1)
    return centre + jump * (stride / jump - 1) / 2 if jump <= stride else centre


def _moved(layer: Any, width: int, mapped: int) -> float:
    """Return by how many of its input's cells a layer moves the centre of the first, for an input `width` wide.

    TensorFlow's layers in timm pad by themselves what the width of the output asks for, and say 0.
    """
    reach = _of_columns(getattr(layer, "dilation", 1)) * (_of_columns(layer.kernel_size) - 1)
    if layer.padding == "same":
        return reach / 2 - reach // 2
    left = 0 if layer.padding == "valid" else _of_columns(layer.padding)
    if left == 0 and not getattr(layer, "ceil_mode", False):
        left = max((mapped - 1) * _of_columns(layer.stride) + reach + 1 - width, 0) // 2
    return reach / 2 - left


def _of_columns(value: Any) -> int:
    return int(value[-1] if isinstance(value, tuple) else value)


class FixedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that always uses its running statistics, also in training (IRN; DeepLab-v2)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps (B, D, h, w) with the running mean and variance."""
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether the dotted `name` is one of `prefixes` or lies below one."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def stride_of(size: int, mapped: int) -> int:
    """Return the power of two nearest to size / mapped: the stride of a map `mapped` wide of an image `size` wide."""
    ratio = torch.log2(torch.tensor(size / max(mapped, 1), device="cpu"))
    return 2 ** int(ratio.round())


def only_stride(name: str, stride: int | None, native: int) -> None:
    """Raise UsageError when a stride other than the network's only one is asked for."""
    if stride not in (None, native):
        raise UsageError(f"--stride {stride}: {name} has stride {native} only", f"leave it out or give {native}")
