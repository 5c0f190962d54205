"""`wsss features`."""

from __future__ import annotations

from stages.features.config import FeaturesConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call
from wsss_cli.options import EXECUTION_OPTIONS, FAILED_IMAGES, OVERWRITE, REUSE, ROOT, NamedInput, build_image_output

CONFIG = FeaturesConfig
EXAMPLE = ("wsss features train.h5 --net cam.safetensors -o features\n"
           "wsss features photos --net cam.safetensors")
SUMMARY = "Compute one pooled feature vector per image."
DESCRIPTION = ("Reads images and labels from index shards, or image files and folders of photographs, which have no "
               "labels. Writes features shards with features (N, D) and labels (N, C+1), one row per image; the row "
               "of an image that failed is 0.")
ARGUMENT = "INDEX|IMAGE..."
NAMED_INPUTS = (
    NamedInput("net", "FILE|NAME", "Network trained with wsss (of train-text, its CLIP embedding is used), or a "
               "network as [timm:|torchvision:|wsss:]NAME."),
    NamedInput("weights", "FILE|TAG", "Weights for a network given by name.", required=False))
OPTION_GROUPS = (build_image_output("features"), ROOT, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE)


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.features.stage import run as run_features
    return call.run(run_features)
