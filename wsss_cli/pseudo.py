"""`wsss pseudo`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.pseudo.config import PseudoConfig
from wsss_cli.command import Call
from wsss_cli.options import INDEX, MAP, OUTPUT, REFUSED, REPLACE

CONFIG = PseudoConfig
EXAMPLE = "wsss pseudo cams --background constant:0.3 -o masks"
TEXT = ("Maps to pseudo masks. Reads class_ids and cam of shards of kind cams. Writes shards of kind masks: mask, and "
        "confidence with 255 for certain.")
EXTRA = (OUTPUT, INDEX, REPLACE, MAP, REFUSED)
INPUTS = "CAMS..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.pseudo.stage import run as stage
    return call.run(stage)
