"""A small residual network that trains from scratch on a CPU, for demos and tests.

It has basic blocks as in He et al., Deep residual learning (2016), fig. 2; 0.5 M parameters, stride 8.
"""

from __future__ import annotations

from torch import Tensor, nn

from stages.nets.backbone import Backbone, check_stride


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut (a 1x1 convolution if the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Return the block's maps (B, outputs, h, w)."""
        inner = self.relu(self.bn1(self.conv1(maps)))
        return self.relu(self.shortcut(maps) + self.bn2(self.conv2(inner)))


class Tiny(Backbone):
    """The small network: a stem at stride 2, then maps at stride 4 (48 channels) and 8 (96 channels)."""

    def __init__(self, stride: int | None = None) -> None:
        super().__init__()
        self.name = "wsss:tiny"
        check_stride(self.name, stride, 8)
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.layer1 = nn.Sequential(BasicBlock(24, 48, stride=2), BasicBlock(48, 48))
        self.layer2 = nn.Sequential(BasicBlock(48, 96, stride=2), BasicBlock(96, 96))
        self.layer3 = nn.Sequential(BasicBlock(96, 96, dilation=2))
        self.channels, self.stride = 96, 8
        self.level_channels, self.level_strides = (48, 96), (4, 8)
        self.blocks = ("stem", "layer1", "layer2", "layer3")
        self.block_prefixes = {block: (block,) for block in self.blocks}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W) at strides 4 and 8."""
        fine = self.layer1(self.stem(images))
        return [fine, self.layer3(self.layer2(fine))]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The numbers of channels of the maps of `forward_pyramid`."""
        return 24, 48, 96

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W) at strides 2, 4 and 8."""
        stem = self.stem(images)
        fine = self.layer1(stem)
        return [stem, fine, self.layer3(self.layer2(fine))]
