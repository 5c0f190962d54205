"""`wsss show`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.show.config import ShowConfig
from wsss_cli import options
from wsss_cli.command import Call, need_paths
from wsss_cli.options import Named

CONFIG = ShowConfig
EXAMPLE = ("wsss show cams masks --ids 2008_000144 --truth -o look.png\n"
           "wsss show captions.h5 --net code.safetensors --count 4 -o look.png")
TEXT = ("Look at images, maps and masks. Reads shards of any kind with images (index, cams, masks) and the images of "
        "their index; a column each. Writes one PNG, or draws in the terminal. With --net, captions of an index and "
        "what the net makes of them: the region and the words of each noun.")
NAMED = (Named("net", "FILE", "A net of train-text code, of which regions and words of captions are shown.",
               required=False),)
EXTRA = (options.OPTIONAL_FILE, options.INDEX, options.DRY_RUN)
INPUTS = "RUN..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.show.stage import plan, run_captions
    from stages.show.stage import run as stage
    if call.inputs.named["net"]:
        return run_captions(call.config, need_paths(call, "INDEX"), call.inputs, call.output, report=call.report)
    given = (call.config, need_paths(call, "RUN"), call.inputs, call.values["output"])
    if call.output.dry_run:
        call.report.tell(f"would {plan(*given)}")
        return Summary()
    drawn = stage(*given)
    if drawn is None:
        call.report.finished(call.output.path)
    else:
        print(drawn)
    return Summary()
