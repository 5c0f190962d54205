"""Translate the weight names of other projects' checkpoints to ours."""

from __future__ import annotations

import re

from torch import Tensor

# Head layers of the checkpoints of WSSS papers, torchvision and timm.
HEAD_LAYERS = (
    "classifier", "fc", "fc8", "fc8_20", "fc8_200", "linear1000", "head", "heads", "head_dist", "last_linear",
    "aspp", "decoder", "embeddings", "joined", "edges", "edge", "displacements", "coarse", "displacement",
    "mean_displacement",
)  # fmt: skip
# Layers of PSA's AffinityNet.
PSA_AFFINITY_NAMES = {"f8_3": "embeddings.0", "f8_4": "embeddings.1", "f8_5": "embeddings.2", "f9": "joined"}
# MCTformer's segmentation network on ResNet-38: the two convolutions of its LargeFOV head.
LARGE_FOV_NAMES = {"fc8_seg_conv1": "decoder.0", "fc8_seg_conv2": "decoder.2"}
# IRN's two branches; all other entries of its checkpoints are duplicates.
IRN_LAYER_NAMES = {
    **{f"fc_edge{number}": f"edges.{number - 1}" for number in range(1, 6)}, "fc_edge6": "edge",
    **{f"fc_dp{number}": f"displacements.{number - 1}" for number in range(1, 6)}, "fc_dp6": "coarse",
    "fc_dp7": "displacement",
}  # fmt: skip
IRN_DUPLICATE_PREFIXES = ("stage", "backbone.", "newly_added.", "edge_layers.", "dp_layers.", "fc_dp7.4.")
# Old DenseNets of torchvision have a dot within the names of a layer's modules (`norm.1`, now `norm1`).
OLD_DENSENET_LAYER = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")


def strip_backbone_prefix(key: str) -> str:
    """Strip the prefix `backbone.` of our networks, so that weights of networks and of backbones match."""
    return key.removeprefix("backbone.")


def translate_weight_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return (weights under our names, {our name: name in the file}, names of duplicates).

    Supported are: IRN (`resnet50.*`, `classifier`, `fc_edge*` and `fc_dp*`; everything else in its checkpoints is a
    duplicate of these weights, as its released code registers modules twice), PSA and SC-CAM (`fc8`, `fc8_20`; `f8_*`,
    `f9`), MCTformer's segmentation network (`fc8_seg_conv1`, `fc8_seg_conv2`), DeepLab-v2 wrapped for several scales
    (`base.`, `scale.`), torchvision's old DenseNets.
    """
    weights, original_names, duplicates = {}, {}, []
    is_irn = any(key.startswith("resnet50.") for key in state)
    for key, tensor in state.items():
        if is_irn and key.startswith(IRN_DUPLICATE_PREFIXES):
            duplicates.append(key)
            continue
        name = _translate_name(key, is_irn=is_irn)
        weights[name], original_names[name] = tensor, key
    return weights, original_names, duplicates


def _translate_name(key: str, *, is_irn: bool) -> str:
    if is_irn:
        layer, _, rest = key.removeprefix("resnet50.").partition(".")
        return "mean_displacement" if layer == "mean_shift" else f"{IRN_LAYER_NAMES.get(layer, layer)}.{rest}"
    key = key.removeprefix("base.").removeprefix("scale.")
    if key in ("fc8.weight", "fc8_20.weight"):
        return "classifier.weight"
    layer, _, rest = key.partition(".")
    if layer in PSA_AFFINITY_NAMES or layer in LARGE_FOV_NAMES:
        return f"{(PSA_AFFINITY_NAMES | LARGE_FOV_NAMES)[layer]}.{rest}"
    return OLD_DENSENET_LAYER.sub(r"\1\2", key)


def is_head_key(key: str, prefixes: tuple[str, ...]) -> bool:
    """Return whether a key (without the prefix `backbone.`) belongs to one of the layers `prefixes`."""
    return key.split(".")[0] in prefixes
