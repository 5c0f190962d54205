"""`wsss index voc | table | coco | folder | webdataset | context | coco-stuff | ... | split`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.index.config import BenchmarkConfig, ContextConfig, FolderConfig, SplitConfig, VocConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import LOG, OUTPUT, REFUSED, REPLACE, Named

app = group("index", "Find images, tags and masks of a data set.")

_MASKS = Named("masks", "DIR", "Folder of ground-truth masks (pictures or SBD's .mat), named as the images.",
               required=False)
_CLASSES = Named("class_names", "FILE", "Class names, one a line, in the order of their ids.", required=False)
_IMAGES = Named("images", "DIR", "Folder of the images (needed unless --tags-only).", required=False)
_WRITES = ("Reads image files, lists and tables. Writes a shard of kind index: per image its path, size, checksum, "
           "tags (labels), captions and mask_path.")


def _run(layout: str, call: Call) -> Summary:
    from stages.index.stage import run
    return run(layout, call.config, call.inputs, call.output, stop=call.stop, report=call.report)


def _split(call: Call) -> Summary:
    from stages.index.stage import run_split
    return call.run(run_split)


_EXTRA = (OUTPUT, REPLACE, REFUSED, LOG)

add(app, "voc", stage="index voc", run=partial(_run, "voc"), config=VocConfig, inputs="ROOT", extra=_EXTRA,
    example="wsss index voc VOCdevkit/VOC2012 --split train -o train.h5",
    text=f"A VOC devkit tree, also with its masks elsewhere (train_aug). {_WRITES} Tags come from Annotations/*.xml "
         "where they are, else from --labels.",
    named=(Named("list", "FILE", "A list of ids, instead of --split.", required=False), _MASKS,
           Named("sbd", "DIR", "The Semantic Boundaries Dataset, for masks (.mat) where VOC has none, and for --split "
                 "train_aug.", required=False),
           Named("labels", "TABLE", "A table of tags (columns id and labels).", required=False), _CLASSES))

add(app, "table", stage="index table", run=partial(_run, "table"), config=FolderConfig, inputs="TABLE", extra=_EXTRA,
    example="wsss index table tags.csv --images photos -o train.h5",
    text=f"A table of tags (CSV, TSV or JSONL) and a folder of images. {_WRITES} Columns: id or path; tags, labels "
         "or classes; caption.",
    named=(_IMAGES, _MASKS, _CLASSES))

add(app, "coco", stage="index coco", run=partial(_run, "coco"), config=FolderConfig, inputs="JSON", extra=_EXTRA,
    example="wsss index coco instances_train2014.json --images train2014 -o train.h5",
    text=f"A COCO instances or captions file. {_WRITES}",
    named=(_IMAGES, Named("captions", "JSON", "A captions file for the same images.", required=False),
           Named("masks", "DIR", "Folder of ground-truth masks, named as the images: class ids 1..C in the order of "
                 "the category ids (COCO's 80: 1..80).", required=False)))

add(app, "folder", stage="index folder", run=partial(_run, "folder"), config=FolderConfig, inputs="DIR",
    extra=_EXTRA, example="wsss index folder photos -o train.h5",
    text=f"A folder of photographs per class. {_WRITES}", named=(_CLASSES,))

for _name, _config, _what, _place in (
        ("context", ContextConfig, "PASCAL Context: JPEGImages, SegmentationClassContext and its lists", "VOC2010"),
        ("coco-stuff", BenchmarkConfig, "COCO-Stuff: images/val2017 and annotations/val2017 (or stuffthingmaps)",
         "coco"),
        ("coco-object", BenchmarkConfig, "COCO-Object: the 80 things of COCO-Stuff's masks, all else is background",
         "coco"),
        ("cityscapes", BenchmarkConfig, "Cityscapes: leftImg8bit and gtFine", "cityscapes"),
        ("ade20k", BenchmarkConfig, "ADE20K, the 150 classes of ADEChallengeData2016", "ADEChallengeData2016")):
    add(app, _name, stage=f"index {_name}", run=partial(_run, _name), config=_config, inputs="ROOT", extra=_EXTRA,
        example=f"wsss index {_name} {_place} -o val.h5",
        text=f"{_what}. {_WRITES} Tags are unknown; what the values of the masks mean is recorded.")

add(app, "webdataset", stage="index webdataset", run=partial(_run, "webdataset"), config=FolderConfig,
    inputs="TAR...", extra=_EXTRA, example="wsss index webdataset cc12m/*.tar -o captions.h5",
    text=f"Tar archives of images and their captions (KEY.jpg with KEY.txt or KEY.json), which stay packed. {_WRITES}")

add(app, "split", stage="index split", run=_split, config=SplitConfig, inputs="INDEX...", extra=(OUTPUT, REPLACE, LOG),
    example="wsss index split train.h5 --single -o source.h5\nwsss index split train.h5 --multi -o target.h5",
    text="The single-label or the multi-label images of an index (CSD's domains). Reads shards of kind index, and no "
         "images, lists or tables. Writes a shard of kind index with everything that the index has of the chosen "
         "images. Images with unknown labels or none belong to neither, and are told.")
