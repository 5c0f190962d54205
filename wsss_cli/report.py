"""`wsss report`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.report.config import ReportConfig
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.options import NamedInput

CONFIG = ReportConfig
EXAMPLE = ("wsss report cams crf masks -o report.html\n"
           "wsss report masks other-masks --sample worst --limit 50 -o worst.html\n"
           "wsss report cams masks --net cam.safetensors --ids ids.txt -o report.html")
SUMMARY = "Write one web page that compares runs over the same images."
DESCRIPTION = ("Reads shards with images (index, cams, masks) and the images, tags and ground truth of their index. "
               "Writes one HTML file that needs no other file and no network: a gallery with adjustable layers and a "
               "slider between any two, filters, IoU per class with confidence intervals, threshold curves, confused "
               "classes, co-occurring tags, curves of trainings (further arguments, or --net), and the commands that "
               "made each run. Images that not all runs have are left out. Memory: one image, and the pixel counts of "
               "every image.")
OPTION_GROUPS = (options.FILE, options.INDEX, options.OVERWRITE)
NAMED_INPUTS = (
    NamedInput("truth", "DIR", "Folder of ground-truth masks, named as the ids of the images. Replaces those of the "
               "index.  [default: the masks of the index]", required=False),
    NamedInput("net", "FILE,...", "Networks whose training curves are shown, separated by commas.", required=False))
ARGUMENT = "RUN|NET|LOG..."


def run(call: Call) -> Summary:
    """Call the stage."""
    from stages.report.stage import run as write_report
    return write_report(call.config, require_paths(call, "RUN"), call.inputs, call.output, stop=call.stop,
                        report=call.report)
