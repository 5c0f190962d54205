"""`wsss init`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.init.config import InitConfig
from wsss_cli.command import Call
from wsss_cli.options import OVERWRITE, NamedInput

CONFIG = InitConfig
EXAMPLE = "wsss init pets --images photos --tags tags.csv\nmake -C pets"
SUMMARY = "Write a Makefile that makes masks, a network and a report from photographs and tags."
DESCRIPTION = ("Reads the table of tags, or the folders of --images as classes, and the sizes of some photographs. "
               "Writes FOLDER/Makefile, with settings that suit the number of photographs and a reason for each, and "
               "FOLDER/README.md. Says how long it will take on this machine. Nothing is trained; edit the Makefile, "
               "then run make.")
OPTION_GROUPS = (OVERWRITE,)
NAMED_INPUTS = (
    NamedInput("images", "DIR", "Folder of the photographs."),
    NamedInput("tags", "TABLE", "Table of their tags, as `wsss index table` reads it; without it each sub-folder is a "
               "class.", required=False),
    NamedInput("masks", "DIR", "Folder of ground-truth masks, if there are any, to score with.", required=False),
    NamedInput("weights", "FILE|TAG", "Initial weights of the network, or of CLIP.  [default: IMAGENET1K_V1, or "
               "openai; both are downloaded]", required=False))
ARGUMENT = "PROJECT"


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.init.stage import run as run_init
    return call.run(run_init)
