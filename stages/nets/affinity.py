"""AffinityNet of PSA (Ahn and Kwak, CVPR 2018, section 3.2) on any backbone.

It predicts features from which the affinity of neighbouring cells is computed: whether they belong to the same class.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from stages.nets.backbone import Backbone

EMBEDDING_WIDTHS = (64, 128, 256)


class AffinityNet(nn.Module):
    """A backbone with a joint embedding of the maps of its last three stages: 448 channels at their finest stride.

    On ResNet-38 these stages are conv4, conv5 and conv6, all at stride 8, as published. On other backbones the embedded
    coarser maps are resized to the finest one. `radius` is the radius of the pairs of cells used in training.
    """

    task = "affinity"
    head = "psa"
    head_keys = ("embeddings", "joined")

    def __init__(self, backbone: Backbone, radius: int = 5) -> None:
        super().__init__()
        self.backbone, self.radius = backbone, radius
        channels = backbone.stage_channels[-len(EMBEDDING_WIDTHS):]
        widths = EMBEDDING_WIDTHS[len(EMBEDDING_WIDTHS) - len(channels):]
        self.n_outputs = sum(widths)
        self.embeddings = nn.ModuleList(nn.Conv2d(inputs, outputs, 1, bias=False)
                                        for inputs, outputs in zip(channels, widths, strict=True))
        self.joined = nn.Conv2d(self.n_outputs, self.n_outputs, 1, bias=False)
        for embedding in self.embeddings:
            nn.init.kaiming_normal_(embedding.weight)
        nn.init.xavier_uniform_(self.joined.weight, gain=4)
        self.mean, self.std = backbone.mean, backbone.std
        self.stride = self._measure_stride()

    @torch.no_grad()
    def _measure_stride(self) -> int:
        """Measure the stride by running a black image: it is the stride of a stage, not of the final map."""
        training, size = self.training, 128
        self.eval()
        features = self(torch.zeros(1, 3, size, size))
        self.train(training)
        return size // features.shape[-1]

    @property
    def architecture_options(self) -> dict[str, int]:
        """The settings that the network file needs in addition: `radius`."""
        return {"radius": self.radius}

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 448, h, w) of images (B, 3, H, W)."""
        stage_maps = self.backbone.forward_stages(images)[-len(EMBEDDING_WIDTHS):]
        embedded_maps = [elu(embedding(maps)) for embedding, maps in zip(self.embeddings, stage_maps, strict=True)]
        size = embedded_maps[0].shape[2:]
        embedded_maps = [maps if maps.shape[2:] == size
                         else interpolate(maps, size=size, mode="bilinear", align_corners=False)
                         for maps in embedded_maps]
        return elu(self.joined(torch.cat(embedded_maps, 1)))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        yield from self.embeddings.parameters()
        yield from self.joined.parameters()
