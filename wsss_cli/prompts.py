"""`wsss prompts`."""

from __future__ import annotations

import dataclasses
import json
import sys

from stages.errors import BadData
from stages.flow.execution import Summary
from stages.prompts.config import PromptsConfig
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.options import CLIP
from wsss_cli.tables import print_table

CONFIG = PromptsConfig
EXAMPLE = "wsss prompts train.h5 --templates imagenet"
SUMMARY = "Rank prompt templates for CLIP by their sharpness, using image tags alone."
DESCRIPTION = ("Reads images and labels from index shards: all images with a tag, or with --images multi-label those "
               "with two or more. Prints a table, the best (least sharp) template first: aligned text on a terminal, "
               "TSV otherwise, or JSON. Exits with 65 if images could not be read. Memory: one image, and one vector "
               "per template and word.")
NAMED_INPUTS = CLIP
OPTION_GROUPS = (options.ROOT, options.JSON)
ARGUMENT = "INDEX..."


def run(call: Call) -> Summary:
    """Call the stage and print its result."""
    from stages.prompts.stage import rank_templates
    inputs = dataclasses.replace(call.inputs, paths=require_paths(call, "INDEX"))
    result = rank_templates(call.config, inputs, stop=call.stop, report=call.report)
    if call.values["json"]:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        rows = [(row["template"], f"{row['sharpness']:.6f}", f"{row['mean_score']:.4f}") for row in result["templates"]]
        print_table([("template", "sharpness", "mean score"), *rows])
    if result["refused"]:
        raise BadData(f"{result['refused']} images could not be read and were skipped; {result['images']} were read",
                      "Repair them, or make an index without them")
    return Summary()
