"""`wsss refine crf`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.refine.config import CrfConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import INDEX, MAP, OUTPUT, REFUSED, REPLACE

app = group("refine", "Fit maps to the borders in the image.")


def _crf(call: Call) -> Summary:
    from stages.refine.stage import run_crf
    return call.run(run_crf)


add(app, "crf", stage="refine crf", run=_crf, config=CrfConfig, inputs="CAMS...",
    example="wsss refine crf cams --preset irn --background constant:0.27 -o crf",
    text="Dense CRF over the background and the classes present. Reads class_ids and cam of shards of kind cams, and "
         "the images of their index. Writes shards of kind cams: posteriors at the size of the image, background "
         "included.",
    extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))
