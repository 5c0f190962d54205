"""Classification networks of torchvision as backbones, with torchvision's own weight names."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from stages.errors import UsageError
from stages.nets.backbone import PROBE_SIZE, Backbone, estimate_stride, measure_first_cell_centre
from stages.nets.torchvision_import import import_torchvision_models

RESNET_STEM = ("conv1", "bn1", "relu", "maxpool")
RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
# Networks whose `features` do not return maps (B, D, h, w).
NON_CONVOLUTIONAL_PREFIXES = ("swin", "vit", "maxvit")


class TorchvisionBackbone(Backbone):
    """A torchvision network with a sequential `features`, or a ResNet (layer1 to layer4).

    A `stride` below the native one sets the stride of later stride-2 convolutions and pools to 1, without
    dilation, as IRN does with ResNet-50; the weights stay valid, the field of view shrinks.
    Raises UsageError if the network has another structure or cannot have the stride.
    """

    def __init__(self, name: str, *, stride: int | None = None, **options: Any) -> None:
        super().__init__()
        models = import_torchvision_models()

        self.name = f"torchvision:{name}"
        model = models.get_model(name, weights=None, **options)
        self._add_blocks(model, name)
        self.ends_with_relu = name.startswith("densenet")  # torchvision's DenseNets have it outside `features`
        transforms = models.get_model_weights(name).DEFAULT.transforms()
        self.mean, self.std = tuple(transforms.mean), tuple(transforms.std)
        self._measure()
        self.stage_blocks = self.level_blocks if max(self.level_strides) < 8 else tuple(
            block for block, level_stride in zip(self.level_blocks, self.level_strides, strict=True)
            if level_stride >= 8)
        self.pyramid_blocks = self._find_pyramid_blocks()
        if stride not in (None, self.stride):
            self._lower_stride(int(stride))

    def _add_blocks(self, model: nn.Module, name: str) -> None:
        if hasattr(model, "features") and not name.startswith(NON_CONVOLUTIONAL_PREFIXES):
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
                f"--net torchvision:{name}: this network has neither a sequential `features` nor the layers of a "
                "ResNet", "Use the timm version of the network: --net timm:NAME"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return the final feature map (B, D, h, w) of images (B, 3, H, W), without storing those of other blocks."""
        (maps,) = deque(self._iterate_blocks(images), maxlen=1)
        return maps

    def _forward_blocks(self, images: Tensor) -> list[Tensor]:
        return list(self._iterate_blocks(images))

    def _iterate_blocks(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the map of each block."""
        maps = images
        for block in self.blocks:
            for path in self.block_prefixes[block]:
                maps = self.get_submodule(path)(maps)
            yield relu(maps) if self.ends_with_relu and block == self.blocks[-1] else maps

    @torch.no_grad()
    def _measure(self) -> None:
        """Measure the stride and channels of every block's map by a forward pass of an all-zero image."""
        self.eval()
        images = torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE)
        block_maps = self._forward_blocks(images)
        self.block_strides = tuple(estimate_stride(PROBE_SIZE, maps.shape[-1]) for maps in block_maps)
        self.channels, self.stride = block_maps[-1].shape[1], self.block_strides[-1]
        self.block_channels = tuple(maps.shape[1] for maps in block_maps)
        last_blocks = {stride: index for index, stride in enumerate(self.block_strides) if stride >= 4}
        self.level_blocks = tuple(last_blocks.values()) or (len(block_maps) - 1,)
        self.level_strides = tuple(self.block_strides[index] for index in self.level_blocks)
        self.level_channels = tuple(self.block_channels[index] for index in self.level_blocks)
        self.first_cell_centre = measure_first_cell_centre(self, lambda: self._forward_blocks(images), self.stride)
        self.train()

    def _find_pyramid_blocks(self) -> tuple[int, ...]:
        """Return the index of the last block at each stride from 2 up; for a ResNet every block is a stage."""
        if "stem" in self.block_prefixes:
            return tuple(range(len(self.blocks)))
        last_blocks = {stride: index for index, stride in enumerate(self.block_strides) if stride >= 2}
        return tuple(last_blocks.values()) or (len(self.blocks) - 1,)

    def _lower_stride(self, stride: int) -> None:
        native_stride = self.stride
        for block, block_stride in zip(self.blocks, self.block_strides, strict=True):
            if block_stride > stride:
                for path in self.block_prefixes[block]:
                    remove_strides(self, path)
        self._measure()
        if self.stride != stride:
            raise UsageError(
                f"--stride {stride}: {self.name} cannot have this stride",
                f"Use {native_stride}, or a smaller power of two that is reached at the end of one of its blocks",
            )

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the last map of images (B, 3, H, W) at each stride from 4 up."""
        maps = self._forward_blocks(images)
        return [maps[index] for index in self.level_blocks]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The numbers of channels of the maps of `forward_stages`."""
        return tuple(self.block_channels[index] for index in self.stage_blocks)

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that natively has stride 8 or more, fine to coarse."""
        maps = self._forward_blocks(images)
        return [maps[index] for index in self.stage_blocks]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The numbers of channels of the maps of `forward_pyramid`."""
        return tuple(self.block_channels[index] for index in self.pyramid_blocks)

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the last map of each stage that natively has stride 2 or more; for a ResNet its stem and layers."""
        maps = self._forward_blocks(images)
        return [maps[index] for index in self.pyramid_blocks]


def remove_strides(root: nn.Module, path: str) -> None:
    """Set the stride of every convolution and pool at or below `path` to 1, keeping the size of its map."""
    for inner, module in list(root.get_submodule(path).named_modules()):
        full_name = f"{path}.{inner}" if inner else path
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.stride = (1, 1)
            if module.kernel_size[0] % 2 == 0:
                module.padding = "same"
        elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)) and _get_first(module.stride) > 1:
            if _get_first(module.kernel_size) % 2 == 0:
                # An even window without stride would shift the map and lose a cell.
                parent, _, child = full_name.rpartition(".")
                setattr(root.get_submodule(parent), child, nn.Identity())
            else:
                module.stride = 1


def _get_first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
