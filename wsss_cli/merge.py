"""`wsss merge`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.merge.config import MergeConfig
from wsss_cli.command import Call
from wsss_cli.options import INDEX, LOG, OUTPUT, REFUSED, REPLACE

CONFIG = MergeConfig
EXAMPLE = "wsss merge masks -o masks.h5"
TEXT = ("Join the parts of a run into one shard, or into fewer. Reads a whole run of kind index, features, cams or "
        "masks. Writes shards of the same kind: the same images in the same order, the refused ones, and their "
        "history. Shards of several indexes need --index, which was merged of these. Holds one shard to be written, "
        "three times.")
EXTRA = (OUTPUT, {"index": INDEX["index"]}, REPLACE, LOG, {"allow_errors": REFUSED["allow_errors"]})
INPUTS = "RUN..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.merge.stage import run as stage
    return call.run(stage)
