"""`wsss check`."""

from __future__ import annotations

import sys

import typer

from stages.check.config import CheckConfig
from stages.errors import BadData
from stages.flow.execution import Summary
from wsss_cli.command import Call, require_paths
from wsss_cli.options import DRY_RUN, REPAIR

CONFIG = CheckConfig
EXAMPLE = "wsss check cams"
SUMMARY = "Find damaged shards and network files, and repair them."
DESCRIPTION = ("Reads every dataset and attribute of a shard of any kind (index, cams, masks, ...) and compares it "
               "with the recorded digest, name and settings; of a network file it compares the SHA-256. Prints path "
               "and verdict as TSV, and names the damaged images. Exits with 65 if anything is damaged or belongs to "
               "another run, and with 66 if a run lacks a part. Holds one shard in memory.")
OPTION_GROUPS = (REPAIR, DRY_RUN)
ARGUMENT = "FILE|FOLDER..."


def run(call: Call) -> Summary:
    """Call the stage; print one line per file and one per fault."""
    from stages.check.stage import check
    codes = set()
    for result in check(require_paths(call, "FILE"), call.report, stop=call.stop, repair=call.values["repair"],
                        dry_run=call.output.dry_run):
        print(f"{result.path}\t{result.verdict}", flush=True)
        for fault in result.faults:
            print(f"wsss check: {fault}", file=sys.stderr)
            codes.add(BadData.code if result.verdict == "damaged" else fault.code)
    if codes:
        raise typer.Exit(min(codes))
    return Summary()
