"""`wsss train-aff psa`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.train_aff.config import PsaConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import FILE, INDEX, REPLACE, TRAIN, Named

app = group("train-aff", "Train a network that tells which neighbouring cells belong together.")


def _psa(call: Call) -> Summary:
    from stages.train_aff.stage import run_psa
    return call.run(run_psa)


add(app, "psa", stage="train-aff psa", run=_psa, config=PsaConfig, inputs="INDEX...",
    example="wsss train-aff psa train.h5 --cams cams --weights cam.safetensors --stride 16 -o affinity.safetensors",
    text="AffinityNet on the areas that class activation maps are sure of: at two backgrounds, each fitted to the "
         "image by a dense CRF. Reads images of shards of kind index, and class_ids and cam of shards of kind cams, "
         "joined by id. Writes a net (.safetensors) for refine psa.",
    named=(Named("cams", "RUN", "A run of wsss cams."),
           Named("weights", "FILE|TAG", "Initial weights: a net of train-cls, .pth, .pt, or a tag that timm or "
                 "torchvision know.", required=False)), extra=(FILE, INDEX, REPLACE, TRAIN))
