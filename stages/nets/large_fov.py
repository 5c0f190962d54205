"""The LargeFOV head of MCTformer's segmentation network: two 3x3 convolutions dilated by 12.

Field of view as in DeepLab (Chen et al., 2015); layers and initial weights as in the code that MCTformer (Xu et al.,
CVPR 2022) released, on the wide ResNet-38: 4096 to 512 to C+1 channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from stages.errors import BadData
from stages.nets.backbone import Backbone

HIDDEN_CHANNELS = 512
DILATION = 12


class LargeFov(nn.Module):
    """A backbone and the LargeFOV head; logits at the backbone's stride.

    It works on any backbone: the first convolution reads the channels of the final map. The dilation is always 12
    cells, which is 96 pixels at the stride 8 of ResNet-38 and twice as many at stride 16. There is no dropout, no
    normalisation and no 1x1 convolution. Weights are initialised Xavier-uniform with gain 1, biases uniform within
    1 / sqrt(fan-in), torch's default.
    """

    task = "segmentation"
    head = "large-fov"
    head_keys = ("decoder",)
    bgr = False

    def __init__(self, backbone: Backbone, n_outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_outputs = n_outputs
        self.decoder = nn.Sequential(_build_convolution(backbone.channels, HIDDEN_CHANNELS), nn.ReLU(),
                                     _build_convolution(HIDDEN_CHANNELS, n_outputs))
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C+1, h, w) of images (B, 3, H, W)."""
        return self.decoder(self.backbone(images))

    def forward_training(self, images: Tensor) -> list[Tensor]:
        """Return the list of logits that the loss sums over; this head has one output."""
        return [self(images)]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.decoder.parameters()

    def check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise BadData if the head of these tensors ends in a 1x1 convolution, as earlier versions built it."""
        last_weight = tensors.get("decoder.2.weight")
        if last_weight is not None and last_weight.shape[-2:] == (1, 1):
            raise BadData("its LargeFOV head ends in a 1x1 convolution: an earlier version of wsss trained it, and the "
                          "published head ends in a 3x3 convolution with dilation 12",
                          "Train it again with `wsss train-seg`")


def _build_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=DILATION, dilation=DILATION)
    nn.init.xavier_uniform_(layer.weight)
    return layer
