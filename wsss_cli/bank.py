"""`wsss bank`."""

from __future__ import annotations

from stages.bank.config import BankConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call
from wsss_cli.options import EXECUTION_OPTIONS, FAILED_IMAGES, INDEX, MAP_NETWORK, OUTPUT, OVERWRITE, REUSE

CONFIG = BankConfig
EXAMPLE = "wsss bank masks --net timm:vit_base_patch14_dinov2 --weights dinov2.pth -o bank"
SUMMARY = "Compute a feature vector of each class in each mask, for segment retrieve."
DESCRIPTION = ("Reads mask from masks shards, and the images of their index. Writes bank shards with class_ids (R) and "
               "features (R, D) of each image: the mean of the network's last map over the pixels of the class.")
ARGUMENT = "MASKS..."
NAMED_INPUTS = MAP_NETWORK
OPTION_GROUPS = (OUTPUT, INDEX, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE)


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.bank.stage import run as run_bank
    return call.run(run_bank)
