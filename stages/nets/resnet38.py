"""Wide ResNet-38 (model A1 of Wu, Shen and van den Hengel, Wider or deeper, 2016), as WSSS papers use it.

PSA (Ahn and Kwak, 2018) and its successors use it at stride 8: three stages of stride 2, then dilation 2
(b5) and 4 (b6, b7). The weights have the names of PSA's checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from stages.nets.backbone import Backbone, check_stride

# For each stage: number of blocks, input, inner and output channels, stride, dilation of the first block's first
# convolution, dilation of all other convolutions.
STAGE_SETTINGS = {
    "b2": (3, 64, 128, 128, 2, 1, 1),
    "b3": (3, 128, 256, 256, 2, 1, 1),
    "b4": (6, 256, 512, 512, 2, 1, 1),
    "b5": (3, 512, 512, 1024, 1, 1, 2),
}


class WideBlock(nn.Module):
    """Pre-activation block of two 3x3 convolutions."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, first_dilation: int,
                 dilation: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, inner, 3, stride, first_dilation, first_dilation, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(inner)
        self.conv_branch2b1 = nn.Conv2d(inner, outputs, 3, 1, dilation, dilation, bias=False)
        self.changes_shape = stride != 1 or inputs != outputs
        if self.changes_shape:
            self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's maps (B, outputs, h, w)."""
        active = relu(self.bn_branch2a(maps))
        shortcut = self.conv_branch1(active) if self.changes_shape else maps
        inner = relu(self.bn_branch2b1(self.conv_branch2a(active)))
        return shortcut + self.conv_branch2b1(inner)


class WideBottleneck(nn.Module):
    """Pre-activation block of 1x1, 3x3 and 1x1 convolutions, with dropout before the last two."""

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, outputs // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(outputs // 4, outputs // 2, 3, 1, dilation, dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's maps (B, outputs, h, w)."""
        active = relu(self.bn_branch2a(maps))
        inner = self.dropout_2b1(relu(self.bn_branch2b1(self.conv_branch2a(active))))
        inner = self.dropout_2b2(relu(self.bn_branch2b2(self.conv_branch2b1(inner))))
        return self.conv_branch1(active) + self.conv_branch2b2(inner)


class ResNet38(Backbone):
    """Wide ResNet-38 at stride 8 with 4096 channels; dropout 0.3 in b6 and 0.5 in b7 (PSA's values)."""

    def __init__(self, stride: int | None = None) -> None:
        super().__init__()
        self.name = "wsss:resnet38"
        check_stride(self.name, stride, 8)
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.block_prefixes = {"conv1a": ("conv1a",)}
        for stage, settings in STAGE_SETTINGS.items():
            self.block_prefixes[stage] = self._add_stage(stage, *settings)
        self.b6 = WideBottleneck(1024, 2048, dilation=4, dropout=0.3)
        self.b7 = WideBottleneck(2048, 4096, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(4096)
        self.block_prefixes |= {"b6": ("b6",), "b7": ("b7", "bn7")}
        self.blocks = tuple(self.block_prefixes)
        self.channels, self.stride = 4096, 8
        self.level_channels, self.level_strides = (256, 4096), (4, 8)

    def _add_stage(
        self, stage: str, num_blocks: int, inputs: int, inner: int, outputs: int, stride: int, first_dilation: int,
        dilation: int
    ) -> tuple[str, ...]:
        names = tuple(stage if index == 0 else f"{stage}_{index}" for index in range(num_blocks))
        self.add_module(stage, WideBlock(inputs, inner, outputs, stride, first_dilation, dilation))
        for name in names[1:]:
            self.add_module(name, WideBlock(outputs, inner, outputs, 1, dilation, dilation))
        return names

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W): that of b3 at stride 4, and the final one at stride 8."""
        maps, levels = self.conv1a(images), []
        for stage in STAGE_SETTINGS:
            for name in self.block_prefixes[stage]:
                maps = self.get_submodule(name)(maps)
            if stage == "b3":
                levels.append(maps)
        maps = self.b7(self.b6(maps))
        return [*levels, relu(self.bn7(maps))]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """The numbers of channels of the maps of `forward_stages`."""
        return 512, 1024, 4096

    def forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return PSA's conv4, conv5 and conv6, all at stride 8: the inputs of b5 and b6, and the final map.

        The inputs are taken after the first BatchNorm and ReLU of these blocks.
        """
        return self.forward_pyramid(images)[-3:]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The numbers of channels of the maps of `forward_pyramid`."""
        return 128, 256, *self.stage_channels

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the maps of b2 and b3 at strides 2 and 4, and those of `forward_stages`."""
        maps, pyramid = self.conv1a(images), []
        for stage in STAGE_SETTINGS:
            if stage == "b5":
                pyramid.append(relu(self.b5.bn_branch2a(maps)))
            for name in self.block_prefixes[stage]:
                maps = self.get_submodule(name)(maps)
            if stage in ("b2", "b3"):
                pyramid.append(maps)
        pyramid.append(relu(self.b6.bn_branch2a(maps)))
        return [*pyramid, relu(self.bn7(self.b7(self.b6(maps))))]
