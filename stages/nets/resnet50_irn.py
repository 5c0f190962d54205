"""The ResNet-50 of IRN (Ahn, Cho and Kwak, 2019): torchvision's, with layer4 at stride 1 without dilation.

The stride is 16, and BatchNorm uses its running statistics also in training. IRN trains only layer3 and later:
`freeze("layer2")`.
"""

from __future__ import annotations

from stages.nets.backbone import FixedBatchNorm2d
from stages.nets.torchvision_backbone import TorchvisionBackbone


class ResNet50Irn(TorchvisionBackbone):
    """ResNet-50 as in IRN's classifier; the weights have torchvision's names."""

    def __init__(self, stride: int | None = None) -> None:
        super().__init__("resnet50", stride=stride or 16, norm_layer=FixedBatchNorm2d)
        self.name = "wsss:resnet50_irn"
