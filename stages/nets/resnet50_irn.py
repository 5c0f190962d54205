"""The ResNet-50 of IRN (Ahn, Cho and Kwak, 2019): torchvision's, with layer4 at stride 1 without dilation.

Stride 16, and BatchNorm with its running statistics also in training. IRN trains layer3 and later only:
`freeze("layer2")`.
"""

from __future__ import annotations

from stages.nets.backbone import FixedBatchNorm2d
from stages.nets.torchvision_backbone import TorchvisionBackbone


class ResNet50Irn(TorchvisionBackbone):
    """ResNet-50 as in IRN's classifier; the names of the weights are torchvision's."""

    def __init__(self, stride: int | None = None) -> None:
        super().__init__("resnet50", stride=stride or 16, norm_layer=FixedBatchNorm2d)
        self.name = "wsss:resnet50_irn"
