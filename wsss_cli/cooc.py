"""`wsss cooc`."""

from __future__ import annotations

import json
import sys
from typing import Any

from stages.cooc.config import CoocConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call
from wsss_cli.options import FILE, JSON, LOG, REFUSED, REPLACE, Named
from wsss_cli.tables import print_rows

CONFIG = CoocConfig
EXAMPLE = "wsss cooc train.h5 -o cooc.h5 --plot cooc.png"
TEXT = ("Which classes appear together (CSD, eq. 1). Reads labels of shards of kind index. Writes one shard of kind "
        "cooc: counts, the images that bear both classes; probability, each row of it divided by its sum; "
        "single_label, the images that bear one class only. A class without samples has a row of zeros. Prints the "
        "probabilities, a row a class: text on a terminal, TSV otherwise, or JSON with everything. Images with "
        "unknown labels are left out and told. Holds the ids and labels of all images, about 300 bytes each.")
EXTRA = (FILE, REPLACE, LOG, {"allow_errors": REFUSED["allow_errors"]}, JSON)
NAMED = (Named("plot", "FILE.png", "Also draw the probabilities as a heat map.", required=False),)
INPUTS = "INDEX..."


def run(call: Call) -> Summary:
    """Call the stage and print what the shard says."""
    from stages.cooc.stage import describe
    from stages.cooc.stage import run as stage
    summary = call.run(stage)
    if call.output.dry_run:
        return summary
    result = describe(call.output.path)
    if call.values["json"]:
        json.dump(result, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print_rows(_rows(result, short=sys.stdout.isatty()))
    return summary


def _rows(result: dict[str, Any], *, short: bool) -> list[tuple[str, ...]]:
    """Return the table; a short one, for people, has numbers instead of names over its columns."""
    names = list(result["single_label"])
    numbers = [str(place) for place, _ in enumerate(names, 1)]
    rows = []
    for number, name in zip(numbers, names, strict=True):
        values = [_value(one, short) for one in result["probability"][name].values()]
        rows.append((f"{number} {name}" if short else name, str(result["single_label"][name]), *values))
    return [("class", "single_label", *(numbers if short else names)), *rows]


def _value(value: float, short: bool) -> str:
    if not short:
        return f"{value:.6f}"
    return f"{value:.2f}" if value else "."
