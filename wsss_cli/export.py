"""`wsss export png | voc`."""

from __future__ import annotations

from stages.export.config import PngConfig, VocConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import FOLDER, INDEX, OVERWRITE

app = create_group("export", "Write masks as image files for other tools.")


def _run_png(call: Call) -> Summary:
    from stages.export.stage import run_png
    return call.run(run_png)


def _run_voc(call: Call) -> Summary:
    from stages.export.stage import run_voc
    return call.run(run_voc)


add_command(
    app, "png", stage="export png", run=_run_png, config=PngConfig, argument="MASKS...",
    example="wsss export png masks -o png",
    summary="Write one PNG of class ids per image.",
    description="Reads the masks of masks shards. Writes OUT/<id>.png.",
    option_groups=(FOLDER, INDEX, OVERWRITE))

add_command(
    app, "voc", stage="export voc", run=_run_voc, config=VocConfig, argument="MASKS...",
    example="wsss export voc masks -o tree\nwsss export voc masks --submission -o upload",
    summary="Write a PASCAL VOC tree, or the layout of the VOC test server.",
    description="Reads the masks of masks shards. Writes SegmentationClass/<id>.png, ImageSets/Segmentation/SPLIT.txt "
                "and classes.txt; with --submission, results/VOC2012/Segmentation/comp6_test_cls/<id>.png.",
    option_groups=(FOLDER, INDEX, OVERWRITE))
