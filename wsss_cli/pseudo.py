"""`wsss pseudo`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.pseudo.config import PseudoConfig
from wsss_cli.command import Call
from wsss_cli.options import EXECUTION_OPTIONS, FAILED_IMAGES, INDEX, OUTPUT, OVERWRITE, REUSE

CONFIG = PseudoConfig
EXAMPLE = "wsss pseudo cams --background constant:0.3 -o masks"
SUMMARY = "Turn CAMs into pseudo masks."
DESCRIPTION = ("Reads class_ids and cam from cams shards. Writes masks shards with mask, and confidence (0 to 255, "
               "where 255 is certain).")
OPTION_GROUPS = (OUTPUT, INDEX, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE)
ARGUMENT = "CAMS..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.pseudo.stage import run as run_pseudo
    return call.run(run_pseudo)
