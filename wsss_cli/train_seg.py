"""`wsss train-seg`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.train_seg.config import SegConfig
from wsss_cli.command import Call
from wsss_cli.options import FILE, REPLACE, ROOT, TRAIN, Named

CONFIG = SegConfig
EXAMPLE = "wsss train-seg train.h5 --masks pseudo --weights cam.safetensors -o seg.safetensors"
TEXT = ("Train a segmentation network on masks. Reads images of shards of kind index and the mask (and confidence) "
        "of shards of kind masks, joined by id. Writes a net (.safetensors).")
EXTRA = (FILE, ROOT, REPLACE, TRAIN)
INPUTS = "INDEX..."
NAMED = (
    Named("masks", "RUN|truth", "A masks run, or truth: the index's own masks, recorded as full supervision."),
    Named("weights", "FILE|TAG", "Initial weights: a net of train-cls, .pth, .pt, or a tag that timm or torchvision "
          "know.", required=False))


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.train_seg.stage import run as stage
    return call.run(stage)
