"""`wsss cooc`."""

from __future__ import annotations

import json
import sys
from typing import Any

from stages.cooc.config import CoocConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call
from wsss_cli.options import FAILED_IMAGES, FILE, JSON, LOG, OVERWRITE, SHARE_OPTIONS, NamedInput
from wsss_cli.tables import print_table

CONFIG = CoocConfig
EXAMPLE = "wsss cooc train.h5 -o cooc.h5 --plot cooc.png"
SUMMARY = "Count which classes appear together in the same image."
DESCRIPTION = ("This is equation 1 of CSD. Reads labels from index shards. Writes one cooc shard with counts (images "
               "that have both classes), probability (each row divided by its sum; a row of zeros for a class without "
               "images) and single_label (images that have one class only). Prints the probabilities, one row per "
               "class: aligned text on a terminal, TSV otherwise, or everything as JSON. Images with unknown labels "
               "are skipped and counted. Memory: the ids and labels of all images, about 300 bytes each.")
OPTION_GROUPS = (FILE, OVERWRITE, SHARE_OPTIONS, LOG, {"allow_errors": FAILED_IMAGES["allow_errors"]}, JSON)
NAMED_INPUTS = (NamedInput("plot", "FILE.png", "Also draw the probabilities as a heat map.", required=False),)
ARGUMENT = "INDEX..."


def run(call: Call) -> Summary:
    """Call the stage and print what the shard holds."""
    from stages.cooc.stage import run as run_cooc
    from stages.cooc.stage import summarise_shard
    summary = call.run(run_cooc)
    if call.output.dry_run or not call.output.path.exists():  # a task that is done before the others
        return summary
    result = summarise_shard(call.output.path)
    if call.values["json"]:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print_table(_build_rows(result, is_short=sys.stdout.isatty()))
    return summary


def _build_rows(result: dict[str, Any], *, is_short: bool) -> list[tuple[str, ...]]:
    """Return the table. The short one, for people, has numbers instead of names above its columns."""
    names = list(result["single_label"])
    numbers = [str(number) for number, _ in enumerate(names, 1)]
    rows = []
    for number, name in zip(numbers, names, strict=True):
        values = [_format_probability(value, is_short) for value in result["probability"][name].values()]
        rows.append((f"{number} {name}" if is_short else name, str(result["single_label"][name]), *values))
    return [("class", "single_label", *(numbers if is_short else names)), *rows]


def _format_probability(value: float, is_short: bool) -> str:
    if not is_short:
        return f"{value:.6f}"
    return f"{value:.2f}" if value else "."
