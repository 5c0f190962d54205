"""`wsss check`."""

from __future__ import annotations

import sys

import typer

from stages.check.config import CheckConfig
from stages.errors import BadData
from stages.flow.execution import Summary
from wsss_cli.command import Call, need_paths
from wsss_cli.options import DRY_RUN, REPAIR

CONFIG = CheckConfig
EXAMPLE = "wsss check cams"
TEXT = ("Find damaged bytes. Reads every dataset and attribute of any shard (index, cams, masks, ...) and compares "
        "with its digest, its name and the settings of its run; of a net its sha256. Prints path and verdict as TSV, "
        "and names the damaged images; ends with 65 when anything is damaged, misnamed or of another run, with 66 "
        "when a run lacks a part. Holds one shard.")
EXTRA = (REPAIR, DRY_RUN)
INPUTS = "FILE|FOLDER..."


def run(call: Call) -> Summary:
    """Call the stage, print a line per file and per fault."""
    from stages.check.stage import check
    codes = set()
    for found in check(need_paths(call, "FILE"), call.report, stop=call.stop, repair=call.values["repair"],
                       dry_run=call.output.dry_run):
        print(f"{found.path}\t{found.verdict}", flush=True)
        for fault in found.faults:
            print(f"wsss check: {fault}", file=sys.stderr)
            codes.add(BadData.code if found.verdict == "damaged" else fault.code)
    if codes:
        raise typer.Exit(min(codes))
    return Summary()
