"""Networks whose features tell whether neighbouring cells belong together.

PSA's AffinityNet (Ahn and Kwak, CVPR 2018, section 3.2), on any backbone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from stages.nets.backbone import Backbone

WIDTHS = (64, 128, 256)


class AffinityNet(nn.Module):
    """A backbone, and the maps of its last three stages embedded together: 448 channels at the stride of the finest.

    On ResNet-38 these are conv4, conv5 and conv6, all at stride 8, as published; elsewhere coarser maps are resized
    to the finest after their embedding. `radius` is what its pairs were trained with.
    """

    task = "affinity"
    head = "psa"
    head_keys = ("embeddings", "joined")

    def __init__(self, backbone: Backbone, radius: int = 5) -> None:
        super().__init__()
        self.backbone, self.radius = backbone, radius
        channels = backbone.stage_channels[-len(WIDTHS):]
        widths = WIDTHS[len(WIDTHS) - len(channels):]
        self.n_outputs = sum(widths)
        self.embeddings = nn.ModuleList(nn.Conv2d(inputs, outputs, 1, bias=False)
                                        for inputs, outputs in zip(channels, widths, strict=True))
        self.joined = nn.Conv2d(self.n_outputs, self.n_outputs, 1, bias=False)
        for embedding in self.embeddings:
            nn.init.kaiming_normal_(embedding.weight)
        nn.init.xavier_uniform_(self.joined.weight, gain=4)
        self.mean, self.std = backbone.mean, backbone.std
        self.stride = self._measured_stride()

    @torch.no_grad()
    def _measured_stride(self) -> int:
        """Find the stride by a pass over an empty picture: it is that of a stage, not of the final map."""
        training, size = self.training, 128
        self.eval()
        found = self(torch.zeros(1, 3, size, size))
        self.train(training)
        return size // found.shape[-1]

    @property
    def architecture_options(self) -> dict[str, int]:
        """What its file tells besides: `radius`."""
        return {"radius": self.radius}

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 448, h, w) of images (B, 3, H, W)."""
        maps = self.backbone.stage_maps(images)[-len(WIDTHS):]
        embedded = [elu(embedding(one)) for embedding, one in zip(self.embeddings, maps, strict=True)]
        size = embedded[0].shape[2:]
        embedded = [one if one.shape[2:] == size else interpolate(one, size=size, mode="bilinear", align_corners=False)
                    for one in embedded]
        return elu(self.joined(torch.cat(embedded, 1)))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        yield from self.embeddings.parameters()
        yield from self.joined.parameters()
