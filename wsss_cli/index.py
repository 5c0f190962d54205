"""`wsss index voc | table | coco | folder | webdataset | context | coco-stuff | ... | split`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.index.config import BenchmarkConfig, ContextConfig, FolderConfig, SplitConfig, VocConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import FAILED_IMAGES, LOG, OUTPUT, OVERWRITE, NamedInput

app = create_group("index", "Make an index of a data set: its images, tags, captions and ground-truth masks.")

_MASKS = NamedInput("masks", "DIR", "Folder of ground-truth masks (images, or .mat files of SBD), named as the images.",
                    required=False)
_CLASSES = NamedInput("class_names", "FILE", "Class names, one per line, in the order of their ids.", required=False)
_CLASSES_OF = NamedInput("classes_of", "FILE", "Take the class names from a network of train-cls or train-seg, so that "
                         "it can be used for these images.", required=False)
_IMAGES = NamedInput("images", "DIR", "Folder of the images (required unless --tags-only is given).", required=False)
_WRITES = ("Writes an index shard: for each image its path, size, checksum, tags (labels), captions and mask_path.")
_READS_AND_WRITES = f"Reads image files, lists and tables. {_WRITES}"
_OPTION_GROUPS = (OUTPUT, OVERWRITE, FAILED_IMAGES, LOG)


def _run(layout: str, call: Call) -> Summary:
    from stages.index.stage import run
    return run(layout, call.config, call.inputs, call.output, stop=call.stop, report=call.report)


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
    app, "table", stage="index table", run=partial(_run, "table"), config=FolderConfig, argument="TABLE",
    example="wsss index table tags.csv --images photos -o train.h5",
    summary="Index a folder of images with a table of tags or captions (CSV, TSV or JSONL).",
    description=f"Columns of the table: id or path; tags, labels or classes; caption. {_READS_AND_WRITES}",
    named_inputs=(_IMAGES, _MASKS, _CLASSES, _CLASSES_OF), option_groups=_OPTION_GROUPS)

add_command(
    app, "coco", stage="index coco", run=partial(_run, "coco"), config=FolderConfig, argument="JSON",
    example="wsss index coco instances_train2014.json --images train2014 -o train.h5",
    summary="Index COCO, or another data set with a COCO annotation file (instances or captions).",
    description=_READS_AND_WRITES,
    named_inputs=(
        _IMAGES, NamedInput("captions", "JSON", "COCO captions file of the same images.", required=False),
        NamedInput("masks", "DIR", "Folder of ground-truth masks, named as the images. Class ids are 1..C in the order "
                   "of the category ids (COCO: 1..80).", required=False)),
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
    description=_READS_AND_WRITES, named_inputs=(_CLASSES_OF,), option_groups=_OPTION_GROUPS)

add_command(
    app, "split", stage="index split", run=_run_split, config=SplitConfig, argument="INDEX...",
    example="wsss index split train.h5 --single -o source.h5\nwsss index split train.h5 --multi -o target.h5",
    summary="Select the images of an index that have one label, or those with several (the domains of CSD).",
    description="Reads index shards, and no images, lists or tables. Writes an index shard with everything the index "
                "records of the selected images. Images without labels or with unknown labels are in neither, and are "
                "counted.",
    option_groups=(OUTPUT, OVERWRITE, LOG))
