"""`wsss eval`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from stages.errors import UsageError
from stages.eval.config import EvalConfig
from stages.flow.execution import Summary, check_table_path
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.eval_tables import build_tables, describe_shown_classes
from wsss_cli.tables import FORMATS

CONFIG = EvalConfig
EXAMPLE = ("wsss eval cams --json > cams.json\n"
           "wsss eval cams crf --per-image images.csv --worst 12\n"
           "wsss eval CAM=cams-0,cams-1,cams-2 CRF=crf-0,crf-1,crf-2 --format markdown")
SUMMARY = "Score CAMs or masks against ground-truth masks, and compare runs."
DESCRIPTION = ("Reads cams or masks shards, and the ground-truth masks of their index, of any other index of the same "
               "images and classes (--index), or of a folder (--truth). Prints the IoU of every class "
               "and their mean: aligned text on a terminal, TSV otherwise, or another --format. Several runs are "
               "compared with the first on the images that all of them contain: the difference, an interval from a "
               "paired bootstrap over the images, and the share of images on which it is better. NAME=RUN names a run; "
               "NAME=RUN,RUN,... is a method with several seeds, of which the mean and the standard deviation are "
               "given. Memory: one image, counts of the size of classes x thresholds, and the ids of all images; to "
               "compare runs, also the counts of every image.")
OPTION_GROUPS = (options.OPTIONAL_FILE, options.INDEX, options.JSON, options.TABLE_FORMAT, options.SHARE_OPTIONS,
                 options.DRY_RUN)
NAMED_INPUTS = (options.NamedInput("truth", "DIR", "Folder of ground-truth masks, named as the ids of the images. "
                                   "Replaces those of the index.  [default: the masks of the index]",
                                   required=False),
                options.NamedInput("per_image", "FILE", "Also write the mIoU, the differences and the IoU per class of "
                                   "every image: .csv or .parquet.", required=False),
                options.NamedInput("confusion", "FILE", "Also write the confusion matrix: .csv (pixels), .png or .pdf.",
                                   required=False))
ARGUMENT = "RUN...|NAME=RUN,..."


def run(call: Call) -> Summary:
    """Call the stage and print its result."""
    from stages.eval.stage import describe_plan, evaluate, save_result, save_text
    format_name = _choose_format(call)
    if call.values["output"]:
        check_table_path(call.values["output"])
    inputs = dataclasses.replace(call.inputs, paths=require_paths(call, "RUN"))
    if call.output.dry_run:
        call.report.info(f"Would {describe_plan(inputs)}, and write the result to "
                         f"{call.values['output'] or 'standard output'}")
        return Summary()
    result = evaluate(call.config, inputs, call.output, stop=call.stop, report=call.report)
    if result is None:
        return Summary()
    if not call.values["output"]:
        _print_result(call, result, format_name)
        return Summary()
    path = Path(call.values["output"])
    if format_name == "json":
        save_result(result, path)
    else:
        save_text(_format_tables(result, format_name, call), path)
    call.report.print_path(path)
    return Summary()


def _choose_format(call: Call) -> str:
    """Return the name of the format: that of the options, else JSON for a file, text for a terminal, TSV otherwise."""
    name = call.values["format"]
    if name and name not in (*FORMATS, "json"):
        raise UsageError(f"--format {name!r} is not one of {', '.join((*FORMATS, 'json'))}")
    if call.values["json"] and name not in ("", "json"):
        raise UsageError(f"--json and --format {name} contradict each other", "Use one of them")
    if name or call.values["json"]:
        return name or "json"
    if call.values["output"]:
        return "json"
    return "text" if sys.stdout.isatty() else "tsv"


def _print_result(call: Call, result: dict[str, Any], format_name: str) -> None:
    if format_name == "json":
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        print(_format_tables(result, format_name, call))


def _format_tables(result: dict[str, Any], format_name: str, call: Call) -> str:
    """Return the tables of a result, with an empty line between them."""
    if message := describe_shown_classes(result, all_classes=call.values["per_class"]):
        call.report.info(message)
    tables = build_tables(result, all_classes=call.values["per_class"])
    return "\n\n".join(FORMATS[format_name](table) for table in tables)
