"""How other people's checkpoints name the weights of the networks that we know."""

from __future__ import annotations

import re

from torch import Tensor

# Layers that end a network in the checkpoints of this field and of torchvision and timm.
HEADS = (
    "classifier", "fc", "fc8", "fc8_20", "fc8_200", "linear1000", "head", "heads", "head_dist", "last_linear",
    "aspp", "decoder", "embeddings", "joined", "edges", "edge", "displacements", "coarse", "displacement",
    "mean_displacement",
)  # fmt: skip
# PSA's AffinityNet.
AFFINITY = {"f8_3": "embeddings.0", "f8_4": "embeddings.1", "f8_5": "embeddings.2", "f9": "joined"}
# MCTformer's segmentation network on ResNet-38: the two convolutions of its LargeFOV head.
LARGE_FOV = {"fc8_seg_conv1": "decoder.0", "fc8_seg_conv2": "decoder.2"}
# IRN's two branches; what stands there besides are second registrations.
INTER_PIXEL = {
    **{f"fc_edge{number}": f"edges.{number - 1}" for number in range(1, 6)}, "fc_edge6": "edge",
    **{f"fc_dp{number}": f"displacements.{number - 1}" for number in range(1, 6)}, "fc_dp6": "coarse",
    "fc_dp7": "displacement",
}  # fmt: skip
IRN_COPIES = ("stage", "backbone.", "newly_added.", "edge_layers.", "dp_layers.", "fc_dp7.4.")
# torchvision's first DenseNets had a dot in the names of a layer's convolutions.
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")


def bare(key: str) -> str:
    """Return a key without the prefix `backbone.` of our own nets, so that nets and backbones meet."""
    return key.removeprefix("backbone.")


def renamed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return weights under our names, {our name: name in the file}, and the names of second copies.

    Known are: IRN (`resnet50.*`, `classifier`, `fc_edge*` and `fc_dp*`, everything else there a second
    registration of the same weights: facts of the released code), PSA and SC-CAM (`fc8`, `fc8_20`; `f8_*`, `f9`),
    MCTformer's segmentation network (`fc8_seg_conv1`, `fc8_seg_conv2`), DeepLab-v2 wrapped for several scales (`base.`, `scale.`), torchvision's old DenseNets.
    """
    kept, original, copies = {}, {}, []
    irn = any(key.startswith("resnet50.") for key in state)
    for key, tensor in state.items():
        if irn and key.startswith(IRN_COPIES):
            copies.append(key)
            continue
        name = _our_name(key, irn)
        kept[name], original[name] = tensor, key
    return kept, original, copies


def _our_name(key: str, irn: bool) -> str:
    if irn:
        layer, _, rest = key.removeprefix("resnet50.").partition(".")
        return "mean_displacement" if layer == "mean_shift" else f"{INTER_PIXEL.get(layer, layer)}.{rest}"
    key = key.removeprefix("base.").removeprefix("scale.")
    if key in ("fc8.weight", "fc8_20.weight"):
        return "classifier.weight"
    layer, _, rest = key.partition(".")
    if layer in AFFINITY or layer in LARGE_FOV:
        return f"{(AFFINITY | LARGE_FOV)[layer]}.{rest}"
    return OLD_DENSENET.sub(r"\1\2", key)


def is_head(key: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a key (without `backbone.`) belongs to one of the layers `prefixes`."""
    return key.split(".")[0] in prefixes
