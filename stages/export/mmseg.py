"""MMSegmentation 1.x: masks in ann_dir, images in img_dir, and a configuration of the data set.

Masks are PNG files of class ids with 255 for ignored pixels. Without a background the ids start at 1, as in ADE20K, and
`reduce_zero_label` subtracts 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from stages.data.masks import MAX_8_BIT_CLASS_ID, encode_mask
from stages.errors import UsageError
from stages.export.config import MmsegConfig
from stages.export.exported_set import ExportedFile, ExportedSet, compute_class_colours

_STUB = '''# The data set for MMSegmentation 1.x. Use it as a base of a configuration: _base_ = ['dataset.py', ...]
data_root = '{{{{ fileDirname }}}}'  # the folder of this file; mmengine replaces it
metainfo = dict(
    classes={classes},
    palette={palette})
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label={reduces}),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label={reduces}),
    dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset={train})
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset={val})
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
'''
_DATASET = """dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='img_dir/{split}', seg_map_path='ann_dir/{split}'),
        img_suffix='{suffix}',
        seg_map_suffix='.png',
        reduce_zero_label={reduces},
        pipeline={pipeline})"""


def build_files(exported: ExportedSet, config: MmsegConfig) -> Iterator[ExportedFile]:
    """Yield ann_dir/SPLIT/<id>.png of each image and dataset.py. Raises UsageError for more than 254 classes."""
    num_classes = len(exported.classes) - 1
    if num_classes > MAX_8_BIT_CLASS_ID:
        raise UsageError(f"MMSegmentation reads masks of 8 bits, but there are {num_classes} classes",
                         f"Export at most {MAX_8_BIT_CLASS_ID} classes, or use `wsss export hf`")
    suffixes = set()
    for image in exported.images:
        suffixes.add(PurePosixPath(image.file_name).suffix or ".jpg")
        yield f"ann_dir/{config.split}/{image.id}.png", encode_mask(image.read_mask())
    yield "dataset.py", build_config(exported, sorted(suffixes))
    exported.statistics.notes.append("dataset.py expects both the splits train and val: export each with its --split "
                                     "to the same folder.")


def build_config(exported: ExportedSet, suffixes: list[str]) -> bytes:
    """Return the configuration. Images of several suffixes are several data sets, since each lists one suffix only."""
    first = 0 if exported.has_background else 1
    reduces = not exported.has_background
    colours = compute_class_colours(len(exported.classes) - 1)[first:]
    datasets = {}
    for split, pipeline in (("train", "train_pipeline"), ("val", "test_pipeline")):
        parts = [_DATASET.format(split=split, suffix=suffix, reduces=reduces, pipeline=pipeline) for suffix in suffixes]
        joined = f"dict(type='ConcatDataset', datasets=[{', '.join(parts)}])"
        datasets[split] = parts[0] if len(parts) == 1 else joined
    text = _STUB.format(classes=repr(exported.classes[first:]), palette=[list(colour) for colour in colours],
                        reduces=reduces, **datasets)
    return text.encode()
