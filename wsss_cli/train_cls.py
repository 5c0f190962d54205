"""`wsss train-cls cam`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.train_cls.config import CamConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import FILE, INDEX, REPLACE, TRAIN, Named

app = group("train-cls", "Train a classifier from image tags.")
WEIGHTS = Named("weights", "FILE|TAG", "Initial weights: .safetensors, .pth, .pt, or a tag that timm or torchvision "
                "know.", required=False)


def _run(method: str, call: Call) -> Summary:
    from stages.train_cls.stage import run
    return run(method, call.config, call.inputs, call.output, stop=call.stop, report=call.report)


add(app, "cam", stage="train-cls cam", run=partial(_run, "cam"), config=CamConfig, inputs="INDEX...",
    example="wsss train-cls cam train.h5 --weights mobilenet_v2.pth --stride 16 -o cam.safetensors",
    text="The plain multi-label classifier: global average pooling and a linear layer without bias. Reads labels "
         "and images of shards of kind index. Writes a net (.safetensors), which knows its classes, input mean and "
         "std, and stride.",
    named=(WEIGHTS,), extra=(FILE, INDEX, REPLACE, TRAIN))
