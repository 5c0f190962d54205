"""A light DeepLab head for any backbone, small enough to train on a CPU.

It follows DeepLab-v3+ (Chen et al., 2018): a pyramid of dilated convolutions on the final map and a skip connection
from a finer map, with depthwise separable 3x3 convolutions. It differs in its width (128 instead of 256) and in the
dilation rates, which suit maps of 8 to 40 cells (images of 128 to 321 pixels).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from stages.nets.backbone import Backbone

WIDTH = 128
SKIP_WIDTH = 32
RATES = (3, 6, 9)


def build_pointwise_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Build a 1x1 convolution with BatchNorm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def build_separable_conv(inputs: int, outputs: int, rate: int) -> nn.Sequential:
    """Build a depthwise 3x3 convolution dilated by `rate` and a 1x1 convolution, each with BatchNorm, then ReLU."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), *build_pointwise_conv(inputs, outputs))


class LightAspp(nn.Module):
    """Atrous spatial pyramid pooling: parallel 1x1, dilated 3x3 and image-level branches, joined to 128 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = build_pointwise_conv(channels, WIDTH)
        self.branches = nn.ModuleList(build_separable_conv(WIDTH, WIDTH, rate) for rate in RATES)
        # No BatchNorm here: with one value per channel and image, a batch of one has no variance.
        self.image = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU())
        self.join = build_pointwise_conv((len(RATES) + 2) * WIDTH, WIDTH)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps (B, 128, h, w) for input maps (B, D, h, w)."""
        maps = self.reduce(maps)
        image_level = self.image(maps.mean((2, 3), keepdim=True)).expand_as(maps)
        return self.join(torch.cat([maps, *(branch(maps) for branch in self.branches), image_level], 1))


class LightDecoder(nn.Module):
    """The pyramid, the skip connection and the per-cell classifier."""

    def __init__(self, channels: int, skip_channels: int | None, n_outputs: int) -> None:
        super().__init__()
        self.aspp = LightAspp(channels)
        self.skip = build_pointwise_conv(skip_channels, SKIP_WIDTH) if skip_channels else None
        num_channels = WIDTH + (SKIP_WIDTH if skip_channels else 0)
        self.fuse = build_separable_conv(num_channels, WIDTH, 1)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(WIDTH, n_outputs, 1)
        nn.init.normal_(self.classify.weight, 0, 0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, maps: Tensor, fine: Tensor | None) -> Tensor:
        """Return logits (B, C+1, h, w) at the size of the fine map, or of `maps` when there is no fine map."""
        maps = self.aspp(maps)
        if self.skip is not None:
            maps = interpolate(maps, size=fine.shape[2:], mode="bilinear", align_corners=False)
            maps = torch.cat([maps, self.skip(fine)], 1)
        return self.classify(self.dropout(self.fuse(maps)))


class DeepLabLight(nn.Module):
    """A backbone and the light head; logits have the stride of the map that the skip connection uses.

    This is the finest map at stride 8 or more that is finer than the final map, or else the next finer map. Networks
    with a single map (ViT) have no skip connection.
    """

    task = "segmentation"
    head = "deeplab-light"
    head_keys = ("decoder",)

    def __init__(self, backbone: Backbone, n_outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_outputs = n_outputs
        self.skip_level = find_skip_level(backbone.level_strides)
        skip_channels = None if self.skip_level is None else backbone.level_channels[self.skip_level]
        self.decoder = LightDecoder(backbone.channels, skip_channels, n_outputs)
        self.mean, self.std = backbone.mean, backbone.std
        self.stride = backbone.stride if self.skip_level is None else backbone.level_strides[self.skip_level]
        self.bgr = getattr(backbone, "bgr", False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C+1, h, w) of images (B, 3, H, W)."""
        if self.skip_level is None:
            return self.decoder(self.backbone(images), None)
        maps = self.backbone.forward_levels(images)
        return self.decoder(maps[-1], maps[self.skip_level])

    def forward_training(self, images: Tensor) -> list[Tensor]:
        """Return the list of logits over which the loss is summed; here it has one entry."""
        return [self(images)]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.decoder.parameters()


def find_skip_level(strides: tuple[int, ...]) -> int | None:
    """Return the index of the map for the skip connection among maps at `strides`, finest first, or None."""
    finer_levels = [index for index, stride in enumerate(strides[:-1]) if stride < strides[-1]]
    preferred_levels = [index for index in finer_levels if strides[index] >= 8]
    if preferred_levels:
        return preferred_levels[0]
    return finer_levels[-1] if finer_levels else None
