"""`wsss prompts`."""

from __future__ import annotations

import dataclasses
import json
import sys

from stages.errors import BadData
from stages.flow.execution import Summary
from stages.prompts.config import PromptsConfig
from wsss_cli import options
from wsss_cli.command import Call, need_paths
from wsss_cli.options import CLIP
from wsss_cli.tables import print_rows

CONFIG = PromptsConfig
EXAMPLE = "wsss prompts train.h5 --templates imagenet"
TEXT = ("Rank prompt templates by their sharpness, from image tags alone. Reads images and labels of shards of kind "
        "index: all images with a tag, or with --images multi-label those with two or more. Prints a table, the best "
        "(least sharp) first: text on a terminal, TSV otherwise, or JSON; ends with 65 where images could not be read. "
        "Holds one image at a time, and one vector per template and word.")
NAMED = CLIP
EXTRA = (options.ROOT, options.JSON)
INPUTS = "INDEX..."


def run(call: Call) -> Summary:
    """Call the stage and print its result."""
    from stages.prompts.stage import rank
    inputs = dataclasses.replace(call.inputs, paths=need_paths(call, "INDEX"))
    result = rank(call.config, inputs, stop=call.stop, report=call.report)
    if call.values["json"]:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        rows = [(row["template"], f"{row['sharpness']:.6f}", f"{row['mean_score']:.4f}") for row in result["templates"]]
        print_rows([("template", "sharpness", "mean score"), *rows])
    if result["refused"]:
        raise BadData(f"{result['refused']} images could not be read and were left out, {result['images']} were read",
                      "mend them, or index without them")
    return Summary()
