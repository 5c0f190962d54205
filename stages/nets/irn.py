"""IRNet: where boundaries between classes and objects lie, and where from each cell the centre of its object is.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019), section
4, on any backbone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, relu

from stages.nets.backbone import PROBE, Backbone, stride_of

FINEST = 4  # the stride of the maps: that of ResNet's stem and first layer
EDGE_WIDTH = 32
FINE_WIDTHS = (64, 128)
COARSE_WIDTH = 256
# Groups of the normalisation, as released.
GROUPS = {EDGE_WIDTH: 4, 64: 8, 128: 16, 256: 16}


class IRNet(nn.Module):
    """A frozen backbone, and two branches on all its stages at stride 4 (or the first later one that there is).

    On ResNet-50 they are as published: five stages, of which the stem and layer1 have stride 4 themselves. Elsewhere
    the stages are those of `Backbone.pyramid`; one at stride 2 is averaged. `radius` is what its pairs were trained
    with.
    """

    task = "affinity"
    head = "irn"
    head_keys = ("edges", "edge", "displacements", "coarse", "displacement", "mean_displacement")
    n_outputs = 3  # a boundary and a displacement in rows and columns

    def __init__(self, backbone: Backbone, radius: int = 10) -> None:
        super().__init__()
        self.backbone, self.radius = backbone, radius
        backbone.freeze(len(backbone.blocks))
        self.mean, self.std = backbone.mean, backbone.std
        self.strides = self._measured_strides()
        self.stride = next((one for one in self.strides if one >= FINEST), self.strides[-1])
        self.n_fine = min(len(FINE_WIDTHS), sum(one <= self.stride for one in self.strides))
        channels = backbone.pyramid_channels
        self.edges = nn.ModuleList(_embedding(inputs, EDGE_WIDTH) for inputs in channels)
        self.edge = nn.Conv2d(EDGE_WIDTH * len(channels), 1, 1)
        self._add_displacements(channels)

    def _add_displacements(self, channels: tuple[int, ...]) -> None:
        fine = FINE_WIDTHS[-self.n_fine:]
        n_coarse = len(channels) - self.n_fine
        widths = (*fine, *(COARSE_WIDTH for _ in range(n_coarse)))
        self.displacements = nn.ModuleList(_embedding(inputs, outputs)
                                           for inputs, outputs in zip(channels, widths, strict=True))
        joined = sum(fine)
        if n_coarse:
            self.coarse = _embedding(COARSE_WIDTH * n_coarse, COARSE_WIDTH)
            joined += COARSE_WIDTH
        self.displacement = nn.Sequential(*_embedding(joined, COARSE_WIDTH), nn.ReLU(),
                                          nn.Conv2d(COARSE_WIDTH, 2, 1, bias=False))
        self.register_buffer("mean_displacement", torch.zeros(2))

    @torch.no_grad()
    def _measured_strides(self) -> tuple[int, ...]:
        """Find the strides of the stages by a pass over an empty picture."""
        training = self.training
        maps = self.eval().backbone.pyramid(torch.zeros(1, 3, PROBE, PROBE))
        self.train(training)
        # Of the last map the backbone knows better: where layers don't pad, few cells are left of such a picture.
        return (*(stride_of(PROBE, one.shape[-1]) for one in maps[:-1]), self.backbone.stride)

    @property
    def architecture_options(self) -> dict[str, int]:
        """What its file tells besides: `radius`."""
        return {"radius": self.radius}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits of the boundary (B, h, w), displacements (B, 2, h, w)) of images (B, 3, H, W) of any size.

        (h, w) is (H, W) / `stride`, rounded up. Displacements are rows and columns to the object's centre, in cells; in
        evaluation their mean over the training images is taken off, which no loss decides.
        """
        maps, size = self._stages(images), self._size(images)
        displacement = self._displaced(maps)[..., :size[0], :size[1]]
        if not self.training:
            displacement = displacement - self.mean_displacement.view(1, 2, 1, 1)
        return self._edges(maps)[..., :size[0], :size[1]], displacement

    def boundaries(self, images: Tensor) -> Tensor:
        """Return the logits of the boundary alone, (B, h, w)."""
        height, width = self._size(images)
        return self._edges(self._stages(images))[..., :height, :width]

    def _size(self, images: Tensor) -> tuple[int, int]:
        return -(-images.shape[2] // self.stride), -(-images.shape[3] // self.stride)

    @torch.no_grad()
    def _stages(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the stages of images with zeros (the mean colour) at the right and the bottom.

        Up to whole cells of the coarsest stage (the released code: up to 512 x 512), so that all stages cover the same.
        """
        coarsest = max(self.strides)
        return self.backbone.pyramid(pad(images, (0, -images.shape[3] % coarsest, 0, -images.shape[2] % coarsest)))

    def _edges(self, maps: list[Tensor]) -> Tensor:
        found = [_resized(layer, one, stride, self.stride)
                 for layer, one, stride in zip(self.edges, maps, self.strides, strict=True)]
        return self.edge(_joined(found))[:, 0]

    def _displaced(self, maps: list[Tensor]) -> Tensor:
        n_fine, layers = self.n_fine, self.displacements
        found = [_resized(layer, one, stride, self.stride)
                 for layer, one, stride in zip(layers[:n_fine], maps, self.strides, strict=False)]
        if len(maps) > n_fine:
            middle = self.strides[n_fine]
            coarse = [_resized(layer, one, stride, middle)
                      for layer, one, stride in zip(layers[n_fine:], maps[n_fine:], self.strides[n_fine:], strict=True)]
            found.append(_resized(self.coarse, _joined(coarse), middle, self.stride))
        return self.displacement(_joined(found))

    def fast_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the branch of displacements, which learn faster."""
        yield from self.displacements.parameters()
        if hasattr(self, "coarse"):
            yield from self.coarse.parameters()
        yield from self.displacement.parameters()


def _embedding(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(GROUPS[outputs], outputs))


def _resized(layer: nn.Module, maps: Tensor, stride: int, wanted: int) -> Tensor:
    """Return relu(layer(maps)) at the stride `wanted`: finer maps are averaged before, coarser ones enlarged after."""
    if stride < wanted:
        return relu(layer(avg_pool2d(maps, wanted // stride)))
    found = layer(maps)
    if stride > wanted:
        found = interpolate(found, scale_factor=stride // wanted, mode="bilinear", align_corners=False)
    return relu(found)


def _joined(maps: list[Tensor]) -> Tensor:
    """Return maps put together along the channels; a pool that rounds up (Caffe's) gives a cell more than wanted."""
    height, width = (min(one.shape[side] for one in maps) for side in (2, 3))
    return torch.cat([one[..., :height, :width] for one in maps], 1)
