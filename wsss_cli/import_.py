"""`wsss import masks | cams | coco | regions`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.import_.config import CamsConfig, CocoConfig, MasksConfig, RegionsConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import EXECUTION_OPTIONS, FAILED_IMAGES, OUTPUT, OVERWRITE, ROOT, NamedInput

app = create_group("import", "Import masks, CAMs and regions that other tools made.")

_INDEX = NamedInput("index", "FILE|DIR", "Index of the images, made with wsss index.")
# Without --retry: corrected files are another input, so that the images are imported anew with --force.
_FAILED_IMAGES = {name: option for name, option in FAILED_IMAGES.items() if name != "retry"}
_OPTION_GROUPS = (OUTPUT, ROOT, OVERWRITE, EXECUTION_OPTIONS, _FAILED_IMAGES)


def _run_masks(call: Call) -> Summary:
    from stages.import_.stage import run_masks
    return call.run(run_masks)


def _run_cams(call: Call) -> Summary:
    from stages.import_.stage import run_cams
    return call.run(run_cams)


def _run_coco(call: Call) -> Summary:
    from stages.import_.stage import run_coco
    return call.run(run_coco)


def _run_regions(call: Call) -> Summary:
    from stages.import_.stage import run_regions
    return call.run(run_regions)


add_command(
    app, "masks", stage="import masks", run=_run_masks, config=MasksConfig, argument="RESULTS",
    example="wsss import masks predictions --index val.h5 -o masks",
    summary="Import a folder of masks, one file per image.",
    description="Reads DIR/ID.png (also .npy, .npz, .bmp, .tif, .gif, .ppm and .mat) for every image id of the index: "
                "class ids, a palette, or colours with --mask-values. Writes masks shards without confidence. An image "
                "without a file counts as failed.",
    named_inputs=(_INDEX,), option_groups=_OPTION_GROUPS)

add_command(
    app, "cams", stage="import cams", run=_run_cams, config=CamsConfig, argument="RESULTS",
    example="wsss import cams irn/cam --index train.h5 -o cams",
    summary="Import a folder of CAMs, such as those of IRN, PSA or CLIP-ES.",
    description="Reads DIR/ID.npy or .npz (maps by class, or keys and maps), or DIR/ID_CLASS.png or DIR/ID/CLASS.png "
                "(grey, 8 or 16 bits), for every image id of the index. Pickled dictionaries are read without running "
                "code from them. Writes cams shards, from which wsss pseudo makes masks. An image without a file "
                "counts as failed.",
    named_inputs=(_INDEX,), option_groups=_OPTION_GROUPS)

add_command(
    app, "coco", stage="import coco", run=_run_coco, config=CocoConfig, argument="RESULTS.json",
    example="wsss import coco results.json --index val.h5 --annotations instances_val.json -o masks",
    summary="Import instances in COCO's results format as masks.",
    description="Reads a list of image_id, category_id, segmentation (RLE or polygons) and score. Where instances "
                "overlap, the one with the higher score is on top. Writes masks shards; an image without instances "
                "is background.",
    named_inputs=(_INDEX, NamedInput("annotations", "FILE|none", "COCO file with the images and categories that the "
                                     "results refer to, or none if image_id is the id in the index and category_id the "
                                     "class id.")), option_groups=_OPTION_GROUPS)

add_command(
    app, "regions", stage="import regions", run=_run_regions, config=RegionsConfig, argument="RESULTS",
    example="wsss import regions sam --index train.h5 -o regions",
    summary="Import regions without classes, such as those of SAM or superpixels.",
    description="Reads DIR/ID.png (labels of 8 or 16 bits), .npy, or .json (SAM's list of masks, as RLE, polygons or "
                "rows) for every image id of the index; 0 is no region. Writes regions shards. An image without a "
                "file counts as failed.",
    named_inputs=(_INDEX,), option_groups=_OPTION_GROUPS)
