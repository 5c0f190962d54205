"""`wsss explain`."""

from __future__ import annotations

from stages.explain.config import ExplainConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, require_paths

CONFIG = ExplainConfig
EXAMPLE = "wsss explain train.h5 classifier.safetensors masks"
SUMMARY = "Say what the numbers of an index, a training and masks mean, and what to try next."
DESCRIPTION = ("Reads an index (photographs per class), networks (the log of their training) and masks (how much they "
               "cover, and whether they agree with the tags of the index), in this order. Prints sentences; no ground "
               "truth is needed.")
OPTION_GROUPS = ()
ARGUMENT = "INDEX|NET|MASKS..."


def run(call: Call) -> Summary:
    """Call the stage and print what it says."""
    from stages.explain.stage import explain_paths
    for line in explain_paths(require_paths(call), call.stop):
        print(line)
    return Summary()
