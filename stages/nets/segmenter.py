"""Build segmentation networks by name: a backbone and one of the heads."""

from __future__ import annotations

from torch import nn

from stages.errors import UsageError
from stages.nets.deeplab_light import DeepLabLight
from stages.nets.deeplab_v2 import DeepLabV2
from stages.nets.large_fov import LargeFov
from stages.nets.registry import build_backbone

SEGMENTATION_HEADS: dict[str, type[nn.Module]] = {
    "deeplab-light": DeepLabLight,
    "deeplab-v2": DeepLabV2,
    "large-fov": LargeFov,
}
# The head that the literature combines with a backbone; all other backbones get deeplab-light.
DEFAULT_HEADS = {"wsss:deeplabv2_resnet101": "deeplab-v2", "wsss:resnet38": "large-fov"}


def build_segmenter(name: str, n_outputs: int, *, head: str = "auto", stride: int | None = None) -> nn.Module:
    """Build a segmentation network with `n_outputs` (C+1) logits on the backbone `name`.

    It has `stride` (of its logits), `mean`, `std`, `bgr`, `backbone`, `head_parameters()` and
    `forward_training(images)`. Inputs are always RGB normalised with `mean` and `std`; a network with `bgr`
    reorders the channels itself. Raises UsageError for an unknown name, head or stride.
    """
    if head not in ("auto", *SEGMENTATION_HEADS):
        raise UsageError(f"--head {head!r}: there is no such head", f"Use one of auto, {', '.join(SEGMENTATION_HEADS)}")
    backbone = build_backbone(name, stride=stride)
    if head == "auto":
        head = DEFAULT_HEADS.get(backbone.name, "deeplab-light")
    return SEGMENTATION_HEADS[head](backbone, n_outputs)
