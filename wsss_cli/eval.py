"""`wsss eval`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from stages.eval.config import EvalConfig
from stages.flow.execution import Summary, check_table_path
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.tables import print_table

CONFIG = EvalConfig
EXAMPLE = "wsss eval cams --json > cams.json"
SUMMARY = "Score CAMs or masks against ground-truth masks."
DESCRIPTION = ("Reads cams or masks shards, and the ground-truth masks of their index, of any other index of the same "
               "images and classes (--index), or of a folder (--truth). Prints the IoU of every class "
               "and their mean: aligned text on a terminal, TSV otherwise, or JSON. Memory: one image, counts of the "
               "size of classes x thresholds, and the ids of all images.")
OPTION_GROUPS = (options.OPTIONAL_FILE, options.INDEX, options.JSON, options.DRY_RUN)
NAMED_INPUTS = (options.NamedInput("truth", "DIR", "Folder of ground-truth masks, named as the ids of the images. "
                                   "Replaces those of the index.  [default: the masks of the index]",
                                   required=False),)
ARGUMENT = "RUN..."


def run(call: Call) -> Summary:
    """Call the stage and print its result."""
    from stages.eval.stage import describe_plan, evaluate, save_result
    if call.values["output"]:
        check_table_path(call.values["output"])
    inputs = dataclasses.replace(call.inputs, paths=require_paths(call, "RUN"))
    if call.output.dry_run:
        call.report.info(f"Would {describe_plan(inputs)}, and write the result to "
                         f"{call.values['output'] or 'standard output'}")
        return Summary()
    result = evaluate(call.config, inputs, stop=call.stop, report=call.report)
    if call.values["output"]:
        save_result(result, Path(call.values["output"]))
        call.report.print_path(Path(call.values["output"]))
    elif call.values["json"]:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        print_table(_build_rows(result))
    return Summary()


def _build_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    background = result["background"]
    rows = [("class", "IoU"), *((name, _format_percent(value)) for name, value in result["per_class"].items()),
            ("mIoU", _format_percent(result["miou"])), ("images", str(result["images"]))]
    if background:
        rows.append(("background score", f"{background['rule']}:{background['value']} ({background['chosen_on']})"))
    return [*rows, ("rule", result["rule"])]


def _format_percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
