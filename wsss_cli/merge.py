"""`wsss merge`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.merge.config import MergeConfig
from wsss_cli.command import Call
from wsss_cli.options import FAILED_IMAGES, INDEX, LOG, OUTPUT, OVERWRITE

CONFIG = MergeConfig
EXAMPLE = "wsss merge masks -o masks.h5"
SUMMARY = "Join the shards of a run into one shard, or into fewer."
DESCRIPTION = ("Reads a complete run of kind index, features, cams or masks. Writes shards of the same kind with the "
               "same images in the same order, the images that failed, and the provenance. If the shards were made "
               "from several indexes, pass the merged index with --index. Memory: three times the size of one output "
               "shard.")
OPTION_GROUPS = (OUTPUT, {"index": INDEX["index"]}, OVERWRITE, LOG, {"allow_errors": FAILED_IMAGES["allow_errors"]})
ARGUMENT = "RUN..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.merge.stage import run as run_merge
    return call.run(run_merge)
