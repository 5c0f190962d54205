"""`wsss cams cnn`."""

from __future__ import annotations

from stages.cams.config import CnnConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add, group
from wsss_cli.options import INDEX, MAP, OUTPUT, REFUSED, REPLACE, Named

app = group("cams", "Class activation maps.")


def _cnn(call: Call) -> Summary:
    from stages.cams.stage import run_cnn
    return call.run(run_cnn)


add(app, "cnn", stage="cams cnn", run=_cnn, config=CnnConfig, inputs="INDEX...",
    example="wsss cams cnn train.h5 --net cam.safetensors -o cams",
    text="Maps of a classifier of train-cls, over scales and mirror images. Reads images and labels of shards of "
         "kind index. Writes shards of kind cams: class_ids, cam (foreground only, each divided by its maximum) and "
         "scores.",
    named=(Named("net", "FILE", "A net of train-cls."),), extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))
