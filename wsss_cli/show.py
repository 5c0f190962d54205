"""`wsss show`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.show.config import ShowConfig
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.options import NamedInput

CONFIG = ShowConfig
EXAMPLE = ("wsss show cams masks --ids 2008_000144 --truth -o look.png\n"
           "wsss show captions.h5 --net code.safetensors --count 4 -o look.png")
SUMMARY = "Draw images, CAMs and masks side by side."
DESCRIPTION = ("Reads shards of any kind with images (index, cams, masks), one column per run, and the images of their "
               "index. Writes one PNG, or draws in the terminal. With --net it draws captions: the image region and "
               "the words of each noun.")
NAMED_INPUTS = (NamedInput("net", "FILE", "Network trained with train-text code, to draw the regions and words of "
                           "captions.", required=False),)
OPTION_GROUPS = (options.OPTIONAL_FILE, options.INDEX, options.DRY_RUN)
ARGUMENT = "RUN..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.show.stage import describe_plan, run_captions
    from stages.show.stage import run as run_show
    if call.inputs.named["net"]:
        return run_captions(call.config, require_paths(call, "INDEX"), call.inputs, call.output, report=call.report)
    arguments = (call.config, require_paths(call, "RUN"), call.inputs, call.values["output"])
    if call.output.dry_run:
        call.report.info(f"Would {describe_plan(*arguments)}")
        return Summary()
    text = run_show(*arguments)
    if text is None:
        call.report.print_path(call.output.path)
    else:
        print(text)
    return Summary()
