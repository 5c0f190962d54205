"""`wsss export png | voc`."""

from __future__ import annotations

from stages.export.config import PngConfig, VocConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add, group
from wsss_cli.options import FOLDER, INDEX, REPLACE

app = group("export", "Masks for other tools.")


def _png(call: Call) -> Summary:
    from stages.export.stage import run_png
    return call.run(run_png)


def _voc(call: Call) -> Summary:
    from stages.export.stage import run_voc
    return call.run(run_voc)


add(app, "png", stage="export png", run=_png, config=PngConfig, inputs="MASKS...",
    example="wsss export png masks -o png",
    text="A PNG of class ids per image. Reads the mask of shards of kind masks. Writes OUT/<id>.png.",
    extra=(FOLDER, INDEX, REPLACE))

add(app, "voc", stage="export voc", run=_voc, config=VocConfig, inputs="MASKS...",
    example="wsss export voc masks -o tree\nwsss export voc masks --submission -o upload",
    text="A VOC tree, or the layout of the official test server. Reads the mask of shards of kind masks. Writes "
         "SegmentationClass/<id>.png, ImageSets/Segmentation/SPLIT.txt and classes.txt; with --submission "
         "results/VOC2012/Segmentation/comp6_test_cls/<id>.png.",
    extra=(FOLDER, INDEX, REPLACE))
