"""`wsss regions superpixels`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.regions.config import SuperpixelsConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import EXECUTION_OPTIONS, FAILED_IMAGES, OVERWRITE, REUSE, ROOT, build_image_output

app = create_group("regions", "Divide images into regions without classes.")


def _run_superpixels(call: Call) -> Summary:
    from stages.regions.stage import run_superpixels
    return call.run(run_superpixels)


add_command(
    app, "superpixels", stage="regions superpixels", run=_run_superpixels, config=SuperpixelsConfig,
    argument="INDEX|IMAGE...",
    example="wsss regions superpixels train.h5 --segments 200 -o regions\n"
            "wsss regions superpixels photos",
    summary="Divide images into superpixels of similar colour (SLIC), without a network.",
    description="Reads images from index shards, or image files and folders of photographs. Writes regions shards with "
                "one label map per image, numbered from 1: every pixel is in a region, and every region is connected. "
                "Needs the extra wsss[superpixels].",
    option_groups=(build_image_output("regions"), ROOT, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE))
