"""IRNet: predicts the boundaries between classes, and from each cell the displacement to its object's centre.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019), section
4, on any backbone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, relu

from stages.nets.backbone import PROBE_SIZE, Backbone, estimate_stride

FINEST_STRIDE = 4  # the stride of ResNet's stem and first layer, and of the output maps
EDGE_WIDTH = 32
FINE_WIDTHS = (64, 128)
COARSE_WIDTH = 256
# Number of groups of each GroupNorm by its width, as in the released code.
NUM_GROUPS = {EDGE_WIDTH: 4, 64: 8, 128: 16, 256: 16}


class IRNet(nn.Module):
    """A frozen backbone, and two branches on all its stages at stride 4 (or the first larger stride it has).

    On ResNet-50 the branches are as published: five stages, of which the stem and layer1 have stride 4 themselves. On
    other backbones the stages are those of `Backbone.forward_pyramid`; maps at stride 2 are averaged. `radius` is the
    search radius of the pairs it was trained with.
    """

    task = "affinity"
    head = "irn"
    head_keys = ("edges", "edge", "displacements", "coarse", "displacement", "mean_displacement")
    n_outputs = 3  # a boundary, and a displacement in rows and in columns

    def __init__(self, backbone: Backbone, radius: int = 10) -> None:
        super().__init__()
        self.backbone, self.radius = backbone, radius
        backbone.freeze(len(backbone.blocks))
        self.mean, self.std = backbone.mean, backbone.std
        self.strides = self._measure_strides()
        self.stride = next((stride for stride in self.strides if stride >= FINEST_STRIDE), self.strides[-1])
        self.num_fine_stages = min(len(FINE_WIDTHS), sum(stride <= self.stride for stride in self.strides))
        channels = backbone.pyramid_channels
        self.edges = nn.ModuleList(_build_embedding(inputs, EDGE_WIDTH) for inputs in channels)
        self.edge = nn.Conv2d(EDGE_WIDTH * len(channels), 1, 1)
        self._add_displacement_branch(channels)

    def _add_displacement_branch(self, channels: tuple[int, ...]) -> None:
        fine_widths = FINE_WIDTHS[-self.num_fine_stages:]
        num_coarse_stages = len(channels) - self.num_fine_stages
        widths = (*fine_widths, *(COARSE_WIDTH for _ in range(num_coarse_stages)))
        self.displacements = nn.ModuleList(_build_embedding(inputs, outputs)
                                           for inputs, outputs in zip(channels, widths, strict=True))
        total_width = sum(fine_widths)
        if num_coarse_stages:
            self.coarse = _build_embedding(COARSE_WIDTH * num_coarse_stages, COARSE_WIDTH)
            total_width += COARSE_WIDTH
        self.displacement = nn.Sequential(*_build_embedding(total_width, COARSE_WIDTH), nn.ReLU(),
                                          nn.Conv2d(COARSE_WIDTH, 2, 1, bias=False))
        self.register_buffer("mean_displacement", torch.zeros(2))

    @torch.no_grad()
    def _measure_strides(self) -> tuple[int, ...]:
        """Measure the strides of the stages by a forward pass of an all-zero image."""
        training = self.training
        stage_maps = self.eval().backbone.forward_pyramid(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE))
        self.train(training)
        # The backbone knows the stride of its last map better: layers without padding leave few cells of this image.
        return (*(estimate_stride(PROBE_SIZE, maps.shape[-1]) for maps in stage_maps[:-1]), self.backbone.stride)

    @property
    def architecture_options(self) -> dict[str, int]:
        """Further entries of the net file's architecture: `radius`."""
        return {"radius": self.radius}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (boundary logits (B, h, w), displacements (B, 2, h, w)) of images (B, 3, H, W) of any size.

        (h, w) is (H, W) / `stride`, rounded up. Displacements are rows and columns to the object's centre, in cells; in
        evaluation mode their mean over the training images, which no loss determines, is subtracted.
        """
        stage_maps, (height, width) = self._forward_stages(images), self._compute_map_size(images)
        displacement = self._predict_displacements(stage_maps)[..., :height, :width]
        if not self.training:
            displacement = displacement - self.mean_displacement.view(1, 2, 1, 1)
        return self._predict_boundaries(stage_maps)[..., :height, :width], displacement

    def forward_boundaries(self, images: Tensor) -> Tensor:
        """Return the boundary logits only, (B, h, w)."""
        height, width = self._compute_map_size(images)
        return self._predict_boundaries(self._forward_stages(images))[..., :height, :width]

    def _compute_map_size(self, images: Tensor) -> tuple[int, int]:
        return -(-images.shape[2] // self.stride), -(-images.shape[3] // self.stride)

    @torch.no_grad()
    def _forward_stages(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the stages of images padded with zeros (the mean colour) at the right and the bottom.

        The padding fills whole cells of the coarsest stage (the released code pads to 512 x 512), so that all stages
        cover the same area.
        """
        coarsest = max(self.strides)
        padding = (0, -images.shape[3] % coarsest, 0, -images.shape[2] % coarsest)
        return self.backbone.forward_pyramid(pad(images, padding))

    def _predict_boundaries(self, stage_maps: list[Tensor]) -> Tensor:
        embeddings = [_embed_at_stride(layer, maps, stride, self.stride)
                      for layer, maps, stride in zip(self.edges, stage_maps, self.strides, strict=True)]
        return self.edge(_concatenate_channels(embeddings))[:, 0]

    def _predict_displacements(self, stage_maps: list[Tensor]) -> Tensor:
        num_fine = self.num_fine_stages
        layers, strides = self.displacements, self.strides
        embeddings = [_embed_at_stride(layer, maps, stride, self.stride)
                      for layer, maps, stride in zip(layers[:num_fine], stage_maps, strides, strict=False)]
        if len(stage_maps) > num_fine:
            middle = strides[num_fine]
            coarse_stages = zip(layers[num_fine:], stage_maps[num_fine:], strides[num_fine:], strict=True)
            coarse = [_embed_at_stride(layer, maps, stride, middle) for layer, maps, stride in coarse_stages]
            embeddings.append(_embed_at_stride(self.coarse, _concatenate_channels(coarse), middle, self.stride))
        return self.displacement(_concatenate_channels(embeddings))

    def fast_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the displacement branch, which has the larger learning rate."""
        yield from self.displacements.parameters()
        if hasattr(self, "coarse"):
            yield from self.coarse.parameters()
        yield from self.displacement.parameters()


def _build_embedding(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(NUM_GROUPS[outputs], outputs))


def _embed_at_stride(layer: nn.Module, maps: Tensor, stride: int, target_stride: int) -> Tensor:
    """Return relu(layer(maps)) at `target_stride`: finer maps are averaged before, coarser ones enlarged after."""
    if stride < target_stride:
        return relu(layer(avg_pool2d(maps, target_stride // stride)))
    embedding = layer(maps)
    if stride > target_stride:
        scale_factor = stride // target_stride
        embedding = interpolate(embedding, scale_factor=scale_factor, mode="bilinear", align_corners=False)
    return relu(embedding)


def _concatenate_channels(stage_maps: list[Tensor]) -> Tensor:
    """Concatenate maps along the channels, cropped to the smallest: a pool that rounds up (Caffe's) adds a cell."""
    height, width = (min(maps.shape[axis] for maps in stage_maps) for axis in (2, 3))
    return torch.cat([maps[..., :height, :width] for maps in stage_maps], 1)
