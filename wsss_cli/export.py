"""`wsss export png | voc | coco | yolo | cvat | labelme | labelstudio | mmseg | hf`."""

from __future__ import annotations

from stages.export.config import (
    CocoConfig,
    CvatConfig,
    HfConfig,
    LabelmeConfig,
    LabelStudioConfig,
    MmsegConfig,
    PngConfig,
    VocConfig,
    YoloConfig,
)
from stages.flow.execution import Summary
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import FOLDER, INDEX, OVERWRITE

app = create_group("export", "Write masks, or the ground truth of an index, in the formats of other tools.")


def _run(call: Call) -> Summary:
    from stages.export.stage import run
    return call.run(run)


def _add(name: str, config: type, *, example: str, summary: str, writes: str) -> None:
    description = f"Reads masks shards, or the ground truth of index shards. Writes {writes}"
    add_command(app, name, stage=f"export {name}", run=_run, config=config, argument="MASKS|INDEX...", example=example,
                summary=summary, description=description, option_groups=(FOLDER, INDEX, OVERWRITE))


_add("png", PngConfig, example="wsss export png masks -o png", summary="Write one PNG of class ids per image.",
     writes="OUT/<id>.png, and labelmap.txt with the name and colour of each id.")

_add("voc", VocConfig,
     example="wsss export voc masks --images copy -o tree\nwsss export voc masks --submission -o upload",
     summary="Write a PASCAL VOC tree, or the layout of the VOC test server.",
     writes="SegmentationClass/<id>.png, ImageSets/Segmentation/SPLIT.txt, classes.txt and labelmap.txt, with --images "
            "also JPEGImages; with --submission only results/VOC2012/Segmentation/comp6_test_cls/<id>.png.")

_add("coco", CocoConfig,
     example="wsss export coco masks -o coco\nwsss export coco train.h5 --segmentation polygon -o coco",
     summary="Write a COCO file of run lengths or polygons.",
     writes="annotations/instances_SPLIT.json, and with --images the folder images. Holes in polygons are cut open.")

_add("yolo", YoloConfig,
     example="wsss export yolo masks -o yolo\nwsss export yolo val-masks --split val -o yolo",
     summary="Write segmentation labels for Ultralytics YOLO.",
     writes="labels/SPLIT/<id>.txt, images/SPLIT and data.yaml. Class numbers start at 0, without the background.")

_add("cvat", CvatConfig,
     example="wsss export cvat masks -o cvat\nwsss export cvat masks --shapes mask -o cvat",
     summary="Write an annotation file of CVAT for images 1.1.",
     writes="annotations.xml, with the labels and their colours, and with --images the folder images.")

_add("labelme", LabelmeConfig, example="wsss export labelme masks -o labelme",
     summary="Write one LabelMe file of polygons per image.",
     writes="OUT/<id>.json, the image beside it, and labels.txt.")

_add("labelstudio", LabelStudioConfig,
     example="wsss export labelstudio masks -o tasks\n"
             "wsss export labelstudio masks --url-prefix https://example.org/photos/ -o tasks",
     summary="Write Label Studio tasks with the masks as predictions.",
     writes="tasks.json, label_config.xml with the labels and their colours, and with --images the folder images.")

_add("mmseg", MmsegConfig,
     example="wsss export mmseg masks -o mmseg\nwsss export mmseg val-masks --split val -o mmseg",
     summary="Write the folders of MMSegmentation 1.x and a configuration.",
     writes="ann_dir/SPLIT/<id>.png, img_dir/SPLIT, and dataset.py with the class names, colours, pipelines and data "
            "loaders.")

_add("hf", HfConfig, example="wsss export hf masks -o dataset",
     summary="Write an imagefolder for Hugging Face datasets.",
     writes="SPLIT/images, SPLIT/masks, SPLIT/metadata.jsonl and README.md, which load_dataset(\"imagefolder\") reads.")
