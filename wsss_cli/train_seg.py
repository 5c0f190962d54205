"""`wsss train-seg`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.train_seg.config import SegConfig
from wsss_cli.command import Call
from wsss_cli.options import FILE, OVERWRITE, ROOT, TRAINING_OPTIONS, NamedInput

CONFIG = SegConfig
EXAMPLE = "wsss train-seg train.h5 --masks pseudo --weights cam.safetensors -o seg.safetensors"
SUMMARY = "Train a segmentation network on masks."
DESCRIPTION = ("Reads images from index shards, and mask (and confidence) from masks shards, matched by image id. "
               "Writes a net (.safetensors) for segment net.")
OPTION_GROUPS = (FILE, ROOT, OVERWRITE, TRAINING_OPTIONS)
ARGUMENT = "INDEX..."
NAMED_INPUTS = (
    NamedInput("masks", "RUN|truth", "Masks to learn: a run of masks, or `truth` for the ground-truth masks of the "
               "index (recorded as full supervision)."),
    NamedInput("weights", "FILE|TAG", "Initial weights: a network trained with train-cls, a .pth or .pt file, or a tag "
               "of timm or torchvision.", required=False))


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.train_seg.stage import run as run_train_seg
    return call.run(run_train_seg)
