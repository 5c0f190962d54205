"""The LargeFOV head (Chen et al., DeepLab, 2015): one 3x3 convolution dilated by 12.

On the wide ResNet-38 it is the segmentation network of SEAM, MCTformer and others: 4096 to 512 to C+1.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from stages.nets.backbone import Backbone

INNER = 512
DILATION = 12


class LargeFov(nn.Module):
    """A backbone and the LargeFOV head; logits at the backbone's stride."""

    task = "segmentation"
    head = "large-fov"
    head_keys = ("decoder",)
    bgr = False

    def __init__(self, backbone: Backbone, n_outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_outputs = n_outputs
        self.decoder = nn.Sequential(
            nn.Conv2d(backbone.channels, INNER, 3, padding=DILATION, dilation=DILATION),
            nn.ReLU(),
            nn.Conv2d(INNER, n_outputs, 1),
        )
        nn.init.kaiming_normal_(self.decoder[0].weight, nonlinearity="relu")
        nn.init.normal_(self.decoder[2].weight, 0, 0.01)
        nn.init.zeros_(self.decoder[0].bias)
        nn.init.zeros_(self.decoder[2].bias)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C+1, h, w) of images (B, 3, H, W)."""
        return self.decoder(self.backbone(images))

    def training_outputs(self, images: Tensor) -> list[Tensor]:
        """Return the logits that the loss sums over: the one output."""
        return [self(images)]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.decoder.parameters()
