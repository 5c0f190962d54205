"""DeepLab-v2 (Chen et al., 2017): ResNet-101 at stride 8 and atrous spatial pyramid pooling (ASPP).

Settings and weight names are those of the PyTorch implementation that is common in this field: Caffe-style ResNet
(stride in the first 1x1 convolution, max pooling with ceil mode), BGR input that is not divided by a standard
deviation, frozen BatchNorm, and logits at the scales 1, 0.75 and 0.5 fused by their maximum.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from stages.errors import UsageError
from stages.nets.backbone import Backbone, FixedBatchNorm2d, check_stride

RATES = (6, 12, 18, 24)
TRAINING_SCALES = (0.75, 0.5)
# The mean colour of Caffe's networks, here as RGB; their input ranges from 0 to 255.
CAFFE_MEAN = (122.675 / 255, 116.669 / 255, 104.008 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
# The number of blocks, output channels, stride and dilation of each layer.
LAYER_SETTINGS = {
    "layer2": (3, 256, 1, 1), "layer3": (4, 512, 2, 1), "layer4": (23, 1024, 1, 2), "layer5": (3, 2048, 1, 4)}


class ConvBatchNorm(nn.Module):
    """A convolution with frozen BatchNorm and, unless `has_relu` is False, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1,
                 has_relu: bool = True) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.bn = FixedBatchNorm2d(outputs)
        self.bn.requires_grad_(False)
        self.has_relu = has_relu

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, outputs, h, w)."""
        maps = self.bn(self.conv(maps))
        return relu(maps) if self.has_relu else maps


class Bottleneck(nn.Module):
    """Caffe's bottleneck block, with the stride in the first 1x1 convolution (`reduce`)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, downsample: bool) -> None:
        super().__init__()
        inner = outputs // 4
        self.reduce = ConvBatchNorm(inputs, inner, 1, stride)
        self.conv3x3 = ConvBatchNorm(inner, inner, 3, 1, dilation)
        self.increase = ConvBatchNorm(inner, outputs, 1, has_relu=False)
        self.shortcut = ConvBatchNorm(inputs, outputs, 1, stride, has_relu=False) if downsample else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, outputs, h, w)."""
        return relu(self.increase(self.conv3x3(self.reduce(maps))) + self.shortcut(maps))


class CaffeResNet101(Backbone):
    """ResNet-101 with dilation 2 and 4 in the last two layers: stride 8, 2048 channels. RGB input is turned to BGR."""

    bgr = True

    def __init__(self, stride: int | None = None) -> None:
        super().__init__()
        self.name = "wsss:deeplabv2_resnet101"
        check_stride(self.name, stride, 8)
        self.mean, self.std = CAFFE_MEAN, CAFFE_STD
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", ConvBatchNorm(3, 64, 7, 2))
        self.layer1.add_module("pool", nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        inputs = 64
        for name, (num_blocks, outputs, layer_stride, dilation) in LAYER_SETTINGS.items():
            layer = nn.Sequential()
            for index in range(num_blocks):
                is_first = index == 0
                block = Bottleneck(inputs, outputs, layer_stride if is_first else 1, dilation, downsample=is_first)
                layer.add_module(f"block{index + 1}", block)
                inputs = outputs
            self.add_module(name, layer)
        self.channels, self.stride = inputs, 8
        self.level_channels, self.level_strides = (256, 2048), (4, 8)
        self.blocks = ("layer1", *LAYER_SETTINGS)
        self.block_prefixes = {block: (block,) for block in self.blocks}

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the maps of RGB images (B, 3, H, W): of layer2 at stride 4 and of layer5 at stride 8."""
        fine = self.layer2(self.layer1(images.flip(1)))
        return [fine, self.layer5(self.layer4(self.layer3(fine)))]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The number of channels of each map that `forward_pyramid` returns."""
        return 64, *(outputs for _, outputs, _, _ in LAYER_SETTINGS.values())

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the maps of RGB images (B, 3, H, W) after each of the five layers."""
        maps, pyramid = images.flip(1), []
        for name in self.blocks:
            maps = self.get_submodule(name)(maps)
            pyramid.append(maps)
        return pyramid


class Aspp(nn.Module):
    """The sum of four 3x3 convolutions dilated by 6, 12, 18 and 24; weights start from N(0, 0.01), biases from 0."""

    def __init__(self, channels: int, n_outputs: int) -> None:
        super().__init__()
        for index, rate in enumerate(RATES):
            branch = nn.Conv2d(channels, n_outputs, 3, 1, padding=rate, dilation=rate)
            nn.init.normal_(branch.weight, 0, 0.01)
            nn.init.zeros_(branch.bias)
            self.add_module(f"c{index}", branch)

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits (B, n_outputs, h, w) for feature maps (B, D, h, w)."""
        return self.c0(maps) + self.c1(maps) + self.c2(maps) + self.c3(maps)


class DeepLabV2(nn.Module):
    """DeepLab-v2 on a backbone, whose layers are children under their own names, next to `aspp`."""

    task = "segmentation"
    head = "deeplab-v2"
    head_keys = ("aspp",)

    def __init__(self, backbone: Backbone, n_outputs: int) -> None:
        super().__init__()
        if not backbone.name.startswith(("wsss:", "torchvision:")):
            raise UsageError(f"--head {self.head} does not support {backbone.name}",
                             "Use --head deeplab-light, or a network whose name starts with wsss: or torchvision:")
        for name, child in backbone.named_children():
            self.add_module(name, child)
        # Not registered as a module: otherwise every weight would be saved twice, under two names.
        self.__dict__["backbone"] = backbone
        self.aspp = Aspp(backbone.channels, n_outputs)
        self.n_outputs = n_outputs
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride
        self.bgr = getattr(backbone, "bgr", False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C+1, h, w) of images (B, 3, H, W) at one scale."""
        # Call `forward` directly: the backbone is not a child module, and tracing only handles calls of children.
        return self.aspp(self.backbone.forward(images))

    def forward_training(self, images: Tensor) -> list[Tensor]:
        """Return the logits that the loss sums over: at the scales 1, 0.75 and 0.5, and their maximum."""
        full = self(images)
        scaled = [
            self(interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False))
            for scale in TRAINING_SCALES
        ]
        upsampled = [interpolate(logits, size=full.shape[2:], mode="bilinear", align_corners=False)
                     for logits in scaled]
        return [full, *scaled, torch.stack([full, *upsampled]).amax(0)]

    def forward_multiscale(self, images: Tensor) -> Tensor:
        """Return the maximum (B, C+1, h, w) of the logits at 1x, 0.75x and 0.5x, as DeepLab-v2 does at test time."""
        return self.forward_training(images)[-1]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.aspp.parameters()

    def train(self, mode: bool = True) -> DeepLabV2:
        """Set training mode, except for frozen blocks of the backbone, which stay in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode)
        return self
