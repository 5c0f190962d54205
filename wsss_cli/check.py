"""`wsss check`."""

from __future__ import annotations

import sys

import typer

from stages.check.config import CheckConfig
from stages.errors import BadData
from stages.flow.execution import Summary
from wsss_cli.command import Call, need_paths

CONFIG = CheckConfig
EXAMPLE = "wsss check cams"
TEXT = ("Find damaged bytes. Reads every dataset and attribute of any shard (index, cams, masks, ...) and compares "
        "with its digest; of a net its sha256. Prints path and verdict as TSV; ends with 65 when anything is damaged.")
EXTRA = ()
INPUTS = "FILE|FOLDER..."


def run(call: Call) -> Summary:
    """Call the stage, print a line per file and per fault."""
    from stages.check.stage import check
    damaged = False
    for path, faults in check(need_paths(call, "FILE"), call.report):
        print(f"{path}\t{'damaged' if faults else 'good'}", flush=True)
        for fault in faults:
            damaged = True
            print(f"wsss check: {fault}", file=sys.stderr)
    if damaged:
        raise typer.Exit(BadData.code)
    return Summary()
