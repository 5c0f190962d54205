"""`wsss eval`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from stages.eval.config import EvalConfig
from stages.flow.execution import Summary, check_table
from wsss_cli import options
from wsss_cli.command import Call, need_paths
from wsss_cli.tables import print_rows

CONFIG = EvalConfig
EXAMPLE = "wsss eval cams --json > cams.json"
TEXT = ("Score maps and masks against the truth. Reads shards of kind cams or masks, and the masks of their index. "
        "Prints a table: text on a terminal, TSV otherwise, or JSON. Holds one image at a time, counts of the size "
        "of classes x thresholds, and the ids of all images.")
EXTRA = (options.OPTIONAL_FILE, options.INDEX, options.JSON, options.DRY_RUN)
INPUTS = "RUN..."


def run(call: Call) -> Summary:
    """Call the stage and print its result."""
    from stages.eval.stage import evaluate, plan, save
    if call.values["output"]:
        check_table(call.values["output"])
    inputs = dataclasses.replace(call.inputs, paths=need_paths(call, "RUN"))
    if call.output.dry_run:
        call.report.tell(f"would {plan(inputs)}, and write {call.values['output'] or 'to standard output'}")
        return Summary()
    result = evaluate(call.config, inputs, stop=call.stop, report=call.report)
    if call.values["output"]:
        save(result, Path(call.values["output"]))
        call.report.finished(Path(call.values["output"]))
    elif call.values["json"]:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        print_rows(_rows(result))
    return Summary()


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    background = result["background"]
    rows = [("class", "IoU"), *((name, _percent(value)) for name, value in result["per_class"].items()),
            ("mIoU", _percent(result["miou"])), ("images", str(result["images"]))]
    if background:
        rows.append(("background score", f"{background['rule']}:{background['value']} ({background['chosen_on']})"))
    return [*rows, ("rule", result["rule"])]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
