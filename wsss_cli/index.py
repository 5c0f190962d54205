"""`wsss index voc | table | coco | folder | webdataset | yolo | cvat | ... | context | coco-stuff | ... | split`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stages.flow.execution import Summary, check_json_path
from stages.index.config import (
    BenchmarkConfig,
    ContextConfig,
    FiftyoneConfig,
    FolderConfig,
    ShapesConfig,
    SplitConfig,
    TableConfig,
    VocConfig,
    YoloConfig,
)
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import FAILED_IMAGES, INDEX_TASK, LOG, OUTPUT, OVERWRITE, SUMMARY_JSON, NamedInput

app = create_group("index", "Make an index of a data set: its images, tags, captions and ground-truth masks.")

_MASKS = NamedInput("masks", "DIR", "Folder of ground-truth masks (images, or .mat files of SBD), named as the images.",
                    required=False)
_CLASSES = NamedInput("class_names", "FILE", "Class names, one per line, in the order of their ids; or "
                      "labelmap.txt, data.yaml or dataset.json.", required=False)
_CLASSES_OF = NamedInput("classes_of", "FILE", "Take the class names from a network of train-cls or train-seg, so that "
                         "it can be used for these images.", required=False)
_IMAGES = NamedInput("images", "DIR", "Folder of the images (required unless --tags-only is given).", required=False)
_WRITES = ("Writes an index shard: for each image its path, size, checksum, tags (labels), captions and mask_path.")
_READS_AND_WRITES = f"Reads image files, lists and tables. {_WRITES}"
_OPTION_GROUPS = (OUTPUT, SUMMARY_JSON, OVERWRITE, INDEX_TASK, FAILED_IMAGES, LOG)


def _run(layout: str, call: Call) -> Summary:
    from stages.index.stage import run
    if call.values["summary_json"]:
        check_json_path(call.values["summary_json"], "--summary-json")
    summary_path = Path(call.values["summary_json"]) if call.values["summary_json"] else None
    return call.run(partial(run, layout, summary_path=summary_path))


def _run_split(call: Call) -> Summary:
    from stages.index.stage import run_split
    return call.run(run_split)


add_command(
    app, "voc", stage="index voc", run=partial(_run, "voc"), config=VocConfig, argument="ROOT",
    example="wsss index voc VOCdevkit/VOC2012 --split train -o train.h5",
    summary="Index PASCAL VOC, or a data set with the same folders.",
    description=f"The masks may be in another folder (train_aug). {_READS_AND_WRITES} Tags come from Annotations/*.xml "
                "if they exist, otherwise from --labels.",
    named_inputs=(
        NamedInput("list", "FILE", "List of image ids, instead of --split.", required=False), _MASKS,
        NamedInput("sbd", "DIR", "Folder of the Semantic Boundaries Dataset, for masks (.mat) that VOC lacks and for "
                   "--split train_aug.", required=False),
        NamedInput("labels", "TABLE", "Table of tags with the columns id and labels.", required=False), _CLASSES,
        _CLASSES_OF),
    option_groups=_OPTION_GROUPS)

add_command(
    app, "table", stage="index table", run=partial(_run, "table"), config=TableConfig, argument="TABLE",
    example="wsss index table tags.csv --images photos -o train.h5",
    summary="Index a folder of images with a table of tags or captions (CSV, TSV, JSON, JSON lines, XLSX or Parquet).",
    description="Columns of the table: id, path, file_name or image; labels, tags or class (or one column of 0 and 1 "
                f"per class); caption. {_READS_AND_WRITES}",
    named_inputs=(_IMAGES, _MASKS, _CLASSES, _CLASSES_OF), option_groups=_OPTION_GROUPS)

add_command(
    app, "coco", stage="index coco", run=partial(_run, "coco"), config=ShapesConfig, argument="JSON...",
    example="wsss index coco instances_train2014.json --images train2014 -o train.h5",
    summary="Index COCO, or another data set with a COCO annotation file (instances or captions).",
    description=f"{_READS_AND_WRITES} Segmentations (polygons and RLE) become ground-truth masks, in which smaller "
                "objects cover larger ones and a crowd is ignored where no other object is. Several files are joined; "
                "their categories are matched by name.",
    named_inputs=(
        _IMAGES, NamedInput("captions", "JSON", "COCO captions file of the same images.", required=False),
        NamedInput("masks", "DIR", "Folder of ground-truth masks, named as the images, instead of those drawn from "
                   "segmentations. Class ids are 1..C in the order of the category ids (COCO: 1..80).",
                   required=False)),
    option_groups=_OPTION_GROUPS)

add_command(
    app, "folder", stage="index folder", run=partial(_run, "folder"), config=FolderConfig, argument="DIR",
    example="wsss index folder photos -o train.h5\nwsss index folder new --classes-of cam.safetensors -o new.h5",
    summary="Index a folder that has one folder of images per class, or untagged images for a trained network.",
    description=f"Images that are in no sub-folder have unknown tags. {_READS_AND_WRITES}",
    named_inputs=(_CLASSES, _CLASSES_OF), option_groups=_OPTION_GROUPS)

for _name, _config, _folders, _example in (
        ("context", ContextConfig, "PASCAL Context: JPEGImages, SegmentationClassContext and its lists", "VOC2010"),
        ("coco-stuff", BenchmarkConfig, "COCO-Stuff: images/val2017 and annotations/val2017 (or stuffthingmaps)",
         "coco"),
        ("coco-object", BenchmarkConfig, "COCO-Object: the 80 object classes of COCO-Stuff; everything else is "
         "background", "coco"),
        ("cityscapes", BenchmarkConfig, "Cityscapes: leftImg8bit and gtFine", "cityscapes"),
        ("ade20k", BenchmarkConfig, "ADE20K with the 150 classes of ADEChallengeData2016", "ADEChallengeData2016")):
    add_command(
        app, _name, stage=f"index {_name}", run=partial(_run, _name), config=_config, argument="ROOT",
        example=f"wsss index {_name} {_example} -o val.h5", summary=f"Index {_folders}.",
        description=f"{_READS_AND_WRITES} Tags are unknown. The index records what the values of the masks mean.",
        option_groups=_OPTION_GROUPS)

add_command(
    app, "webdataset", stage="index webdataset", run=partial(_run, "webdataset"), config=FolderConfig,
    argument="TAR...", example="wsss index webdataset cc12m/*.tar -o captions.h5",
    summary="Index tar archives of images and captions (KEY.jpg with KEY.txt or KEY.json), without unpacking them.",
    description=f"{_READS_AND_WRITES} Compressed archives (.tar.gz, .tar.bz2, .tar.xz) need --pack, which stores the "
                "images in the index.",
    named_inputs=(_CLASSES_OF,), option_groups=_OPTION_GROUPS)

_OTHER_IMAGES = NamedInput("images", "DIR", "Folder of the images, if they are not with the annotations.",
                           required=False)
_SORTED_CLASSES = NamedInput("class_names", "FILE", "Class names, one per line, in the order of their ids. Without it "
                             "the labels are sorted.", required=False)
_DRAWS = "Outlines of objects become ground-truth masks; an image with an object that has only a box gets none."
for _name, _title, _argument, _annotation_config, _inputs, _example in (
        ("yolo", "a YOLO data set: data.yaml, or the folders images and labels with classes.txt", "YAML|DIR",
         YoloConfig, (), "data.yaml --split train"),
        ("cvat", 'CVAT\'s exports "CVAT for images 1.1" (XML) and "Segmentation mask 1.1"', "XML|DIR", ShapesConfig,
         (_OTHER_IMAGES,), "annotations.xml --images images"),
        ("labelme", "a folder of LabelMe's JSON files", "FOLDER", ShapesConfig, (_OTHER_IMAGES, _SORTED_CLASSES),
         "annotated"),
        ("labelstudio", "the JSON export of Label Studio", "EXPORT", ShapesConfig, (_OTHER_IMAGES, _SORTED_CLASSES),
         "project-1.json --images images"),
        ("fiftyone", "a data set that FiftyOne exported in its own format (FiftyOneDataset)", "FOLDER", FiftyoneConfig,
         (_OTHER_IMAGES, _SORTED_CLASSES), "exported --field ground_truth")):
    add_command(
        app, _name, stage=f"index {_name}", run=partial(_run, _name), config=_annotation_config, argument=_argument,
        example=f"wsss index {_name} {_example} -o train.h5", summary=f"Index {_title}.",
        description=f"{_READS_AND_WRITES} {_DRAWS}", named_inputs=_inputs, option_groups=_OPTION_GROUPS)

add_command(
    app, "split", stage="index split", run=_run_split, config=SplitConfig, argument="INDEX...",
    example="wsss index split photos.h5 --holdout 0.2 --held-out val.h5 -o train.h5\n"
            "wsss index split train.h5 --single -o source.h5\nwsss index split train.h5 --multi -o target.h5",
    summary="Hold out part of the images for scoring, or select those with one label or with several.",
    description="Reads index shards, and no images, lists or tables. Writes an index shard with everything the index "
                "records of the selected images. With --holdout each class is held out in the same proportion, as far "
                "as possible, and copies of an image stay together. With --single and --multi (the domains of CSD) "
                "images without labels or with unknown labels are in neither, and are counted.",
    named_inputs=(NamedInput("held_out", "FILE|DIR", "Where to write the images that --holdout holds out.",
                             required=False),),
    option_groups=(OUTPUT, OVERWRITE, LOG))
