"""Classification networks of torchvision as backbones, under torchvision's own names of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from stages.errors import UsageError
from stages.nets.backbone import PROBE, Backbone, centre_of, stride_of

RESNET_STEM = ("conv1", "bn1", "relu", "maxpool")
RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
# Their `features` are not maps in (B, D, h, w).
NOT_CONVOLUTIONAL = ("swin", "vit", "maxvit")


class TorchvisionBackbone(Backbone):
    """A torchvision network that is a chain `features`, or a ResNet (layer1 to layer4).

    A `stride` below the native one makes the stride-2 convolutions and pools beyond it stride 1, without
    dilation, as IRN does with ResNet-50; weights keep their meaning, the field of view shrinks.
    Raises UsageError when the network has no such form or the stride can't be had.
    """

    def __init__(self, name: str, *, stride: int | None = None, **options: Any) -> None:
        super().__init__()
        from torchvision import models

        self.name = f"torchvision:{name}"
        model = models.get_model(name, weights=None, **options)
        self._take_chain(model, name)
        self.ends_with_relu = name.startswith("densenet")  # there torchvision has it outside `features`
        transforms = models.get_model_weights(name).DEFAULT.transforms()
        self.mean, self.std = tuple(transforms.mean), tuple(transforms.std)
        self._measure()
        self.stage_blocks = self.level_blocks if max(self.level_strides) < 8 else tuple(
            block for block, reached in zip(self.level_blocks, self.level_strides, strict=True) if reached >= 8)
        self.pyramid_blocks = self._stages()
        if stride not in (None, self.stride):
            self._lower_stride(int(stride))

    def _take_chain(self, model: nn.Module, name: str) -> None:
        if hasattr(model, "features") and not name.startswith(NOT_CONVOLUTIONAL):
            self.features = model.features
            self.blocks = tuple(f"features.{child}" for child, _ in model.features.named_children())
            self.block_prefixes = {block: (block,) for block in self.blocks}
        elif all(hasattr(model, child) for child in RESNET_STEM + RESNET_LAYERS):
            for child in RESNET_STEM + RESNET_LAYERS:
                self.add_module(child, getattr(model, child))
            self.block_prefixes = {"stem": RESNET_STEM} | {layer: (layer,) for layer in RESNET_LAYERS}
            self.blocks = tuple(self.block_prefixes)
        else:
            raise UsageError(
                f"torchvision's {name} is neither a chain of features nor a ResNet", "take timm's: timm:NAME"
            )

    def _block_maps(self, images: Tensor) -> list[Tensor]:
        maps, found = images, []
        for block in self.blocks:
            for path in self.block_prefixes[block]:
                maps = self.get_submodule(path)(maps)
            found.append(maps)
        if self.ends_with_relu:
            found[-1] = relu(found[-1])
        return found

    @torch.no_grad()
    def _measure(self) -> None:
        """Find the stride and channels of every block's map by a pass over an empty picture."""
        self.eval()
        images = torch.zeros(1, 3, PROBE, PROBE)
        maps = self._block_maps(images)
        self.block_strides = tuple(stride_of(PROBE, found.shape[-1]) for found in maps)
        self.channels, self.stride = maps[-1].shape[1], self.block_strides[-1]
        self.block_channels = tuple(found.shape[1] for found in maps)
        last = {stride: index for index, stride in enumerate(self.block_strides) if stride >= 4}
        self.level_blocks = tuple(last.values()) or (len(maps) - 1,)
        self.level_strides = tuple(self.block_strides[index] for index in self.level_blocks)
        self.level_channels = tuple(self.block_channels[index] for index in self.level_blocks)
        self.first_centre = centre_of(self, lambda: self._block_maps(images), self.stride)
        self.train()

    def _stages(self) -> tuple[int, ...]:
        """Return the last block of each stage from stride 2 on; a ResNet's blocks are its stages."""
        if "stem" in self.block_prefixes:
            return tuple(range(len(self.blocks)))
        last = {stride: index for index, stride in enumerate(self.block_strides) if stride >= 2}
        return tuple(last.values()) or (len(self.blocks) - 1,)

    def _lower_stride(self, stride: int) -> None:
        native = self.stride
        for block, reached in zip(self.blocks, self.block_strides, strict=True):
            if reached > stride:
                for path in self.block_prefixes[block]:
                    unstride(self, path)
        self._measure()
        if self.stride != stride:
            raise UsageError(
                f"--stride {stride}: {self.name} can't be had at it",
                f"give {native} or a smaller power of two that ends between its blocks",
            )

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the last map of images (B, 3, H, W) at each stride from 4 up."""
        maps = self._block_maps(images)
        return [maps[index] for index in self.level_blocks]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The channels of `stage_maps`."""
        return tuple(self.block_channels[index] for index in self.stage_blocks)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that natively has stride 8 or more, fine to coarse."""
        maps = self._block_maps(images)
        return [maps[index] for index in self.stage_blocks]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The channels of `pyramid`."""
        return tuple(self.block_channels[index] for index in self.pyramid_blocks)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that natively has stride 2 or more; of a ResNet its stem and layers."""
        maps = self._block_maps(images)
        return [maps[index] for index in self.pyramid_blocks]


def unstride(root: nn.Module, path: str) -> None:
    """Give every strided convolution and pool at or below `path` stride 1, keeping the size of its map."""
    for inner, module in list(root.get_submodule(path).named_modules()):
        where = f"{path}.{inner}" if inner else path
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.stride = (1, 1)
            if module.kernel_size[0] % 2 == 0:
                module.padding = "same"
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)) and _first(module.stride) > 1:
            if _first(module.kernel_size) % 2 == 0:
                # An even window without stride would shift the map and lose a cell.
                parent, _, child = where.rpartition(".")
                setattr(root.get_submodule(parent), child, nn.Identity())
            else:
                module.stride = 1


def _first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
