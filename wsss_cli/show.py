"""`wsss show`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.show.config import ShowConfig
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.guarded_streams import print_drawing
from wsss_cli.options import NamedInput

CONFIG = ShowConfig
EXAMPLE = ("wsss show cams masks --ids 2008_000144 --truth -o look.png\n"
           "wsss show masks --worst 12 --truth -o worst.pdf\n"
           "wsss show cam.safetensors -o curves.png\n"
           "wsss show masks regions --count 6 -o regions.png\n"
           "wsss show captions.h5 --net code.safetensors --count 4 -o look.png")
SUMMARY = "Draw photographs with their CAMs, masks and regions, or the curves of a training."
DESCRIPTION = ("Reads shards with images (index, cams, masks, regions) and the images of their index. Draws one "
               "photograph with one heat map per class, its masks and the outlines of its regions, or several "
               "photographs with one panel per run. An index before other runs limits the images; alone it is drawn "
               "with tags and ground truth. Of a network or a training log it draws the curves, of a cooc shard the "
               "matrix, and with --net captions: the image region and the words of each noun. Writes PNG, JPEG or PDF "
               "by suffix (further pages are FILE-2.png, ..., or pages of the PDF), or draws in the terminal.")
NAMED_INPUTS = (NamedInput("net", "FILE", "Network trained with train-text code, to draw the regions and words of "
                           "captions.", required=False),)
OPTION_GROUPS = (options.PICTURE, options.INDEX, options.DRY_RUN)
ARGUMENT = "RUN|NET|LOG..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.show.stage import run as run_show
    from stages.show.stage import run_captions
    paths = require_paths(call, "INDEX" if call.inputs.named["net"] else "RUN")
    draw = run_captions if call.inputs.named["net"] else run_show
    text = draw(call.config, paths, call.inputs, call.output, report=call.report)
    if text is not None:
        print_drawing(text)
    return Summary()
