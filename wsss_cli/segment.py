"""`wsss segment net`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.segment.config import NetConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import INDEX, MAP, OUTPUT, REFUSED, REPLACE, Named

app = group("segment", "Segment images with a trained network.")


def _net(call: Call) -> Summary:
    from stages.segment.stage import run_net
    return call.run(run_net)


add(app, "net", stage="segment net", run=_net, config=NetConfig, inputs="INDEX|IMAGE...",
    example="wsss segment net photo.jpg --net seg.safetensors -o out",
    text="Masks of a network of train-seg. Reads images of shards of kind index, or image files (then a picture "
         "OUT/<id>.png is written beside). Writes shards of kind masks, and with --scores its scores as shards of "
         "kind cams.",
    named=(Named("net", "FILE", "A net of train-seg."),
           Named("scores", "RUN", "Also write the scores, as a cams run with background.", required=False)),
    extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))
