"""`wsss log`."""

from __future__ import annotations

import csv
import json
import shutil
import sys

from stages.errors import UsageError
from stages.flow.execution import Summary, check_picture_path
from stages.log.config import LogConfig
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.guarded_streams import print_drawing

CONFIG = LogConfig
EXAMPLE = ("wsss log cam.safetensors\n"
           "wsss log one.safetensors two.safetensors -o curves.png\n"
           "wsss log cams --follow\n"
           "wsss log cam.safetensors --format csv > cam.csv")
SUMMARY = "Show how far a run or a training is, how long it took, and the curves of trainings."
DESCRIPTION = ("Reads runs, networks, their checkpoints and their logs, finished or in the making. Prints the state, "
               "the settings, counts of parts, images and failed images, and times where they are recorded; of "
               "trainings a table of the epochs and their curves, several in one chart. With -o, writes the curves as "
               "a picture. With --follow, prints one line per epoch or part until the end.")
OPTION_GROUPS = ({"output": options.PICTURE_OF_CURVES}, options.DRY_RUN)
ARGUMENT = "RUN|NET..."


def run(call: Call) -> Summary:
    """Call the stage and print what it returns."""
    from stages.log.stage import build_rows, describe, draw_curves, render_text
    if call.values["output"]:
        check_picture_path(call.values["output"])
    paths = require_paths(call, "RUN or NET")
    if call.config.follow:
        return _follow(call, paths)
    descriptions = describe(paths, call.report)
    if call.values["output"] or call.output.dry_run:
        _require_output(call)
        draw_curves(descriptions, call.output, call.report)
    elif call.config.format == "json":
        json.dump(descriptions, sys.stdout, indent=1, ensure_ascii=False)
        print()
    elif call.config.format == "text":
        print_drawing(render_text(descriptions, call.config, _choose_columns(call)))
    else:
        delimiter = "\t" if call.config.format == "tsv" else ","
        csv.writer(sys.stdout, delimiter=delimiter, lineterminator="\n").writerows(build_rows(descriptions))
    return Summary()


def _choose_columns(call: Call) -> int:
    """Return the width of the text: that of the terminal, and 80 in a pipe."""
    if call.config.columns:
        return call.config.columns
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def _require_output(call: Call) -> None:
    if not call.values["output"]:
        raise UsageError("--dry-run says what -o would write, but -o is missing", "Leave out --dry-run")


def _follow(call: Call, paths: list[str]) -> Summary:
    """Print lines as they come; at the end, on a terminal, also the summary and the curves."""
    from stages.log.stage import describe, follow_lines, render_text
    if len(paths) > 1 or call.values["output"] or call.config.format != "text":
        raise UsageError("--follow prints lines of text about one training or run",
                         "Give one path, and leave out -o and --format")
    call.report.start_phase("following")
    for line in follow_lines(paths[0], call.config, call.stop, call.report):
        print(line, flush=True)
    if sys.stdout.isatty():
        print_drawing("\n" + render_text(describe(paths, call.report), call.config, _choose_columns(call)))
    return Summary()
