"""`wsss features`."""

from __future__ import annotations

from stages.features.config import FeaturesConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call
from wsss_cli.options import MAP, OUTPUT, REFUSED, REPLACE, ROOT, Named

CONFIG = FeaturesConfig
EXAMPLE = "wsss features train.h5 --net cam.safetensors -o features"
TEXT = ("Pooled features of every image. Reads images and labels of shards of kind index, or image files, which bear "
        "no class. Writes shards of kind features: features (N, D) and labels (N, C+1), a row an image; a refused "
        "image's are 0.")
INPUTS = "INDEX|IMAGE..."
NAMED = (Named("net", "FILE|NAME", "A net of train-*, of train-text its CLIP's embedding; or a network as "
               "[timm:|torchvision:|wsss:]NAME."),
         Named("weights", "FILE|TAG", "With a NAME: its weights.", required=False))
EXTRA = (OUTPUT, ROOT, REPLACE, MAP, REFUSED)


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.features.stage import run as run_features
    return call.run(run_features)
