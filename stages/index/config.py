"""Settings of `wsss index`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class IndexConfig:
    """Settings of every index."""

    pack: bool = setting(False, "Keep the encoded images and masks in the index, so that one file travels.")
    tags_only: bool = setting(False, "Open no image: an index of tags alone.")
    apply_exif: bool = setting(False, "Turn images as their EXIF tag says; masks must fit the result.")
    max_pixels: int = setting(50_000_000, "Refuse images of more pixels.", low=1)
    shard_size: int = setting(0, "Images in a part; 0 puts all in one file.", low=0)


@dataclass(frozen=True)
class VocConfig(IndexConfig):
    """Settings of `index voc`."""

    split: str = setting("", "The list ImageSets/Segmentation/SPLIT.txt.")
    labels_from_masks: bool = setting(
        False, "Take the tags from the ground-truth masks. A leak of pixel labels, and recorded as such.")
    background: bool = setting(True, "Let what is none of the classes be a class; else it does not count (VOC20).")


@dataclass(frozen=True)
class BenchmarkConfig(IndexConfig):
    """Settings of `index coco-stuff`, `coco-object`, `cityscapes` and `ade20k`."""

    split: str = setting("", "Which part; empty: the one that is scored (val, val2017 or validation).")


@dataclass(frozen=True)
class ContextConfig(BenchmarkConfig):
    """Settings of `index context`."""

    background: bool = setting(True, "Let what is none of the 59 classes be a class; else it does not count "
                               "(Context59).")


@dataclass(frozen=True)
class FolderConfig(IndexConfig):
    """Settings of `index folder`, `index table`, `index coco` and `index webdataset`."""


@dataclass(frozen=True)
class SplitConfig:
    """Settings of `index split`."""

    single: bool = setting(False, "Keep the images of exactly one class: the source domain.", source="CSD")
    multi: bool = setting(False, "Keep the images of more than one class: the target domain.", source="CSD")
    shard_size: int = setting(0, "Images in a part; 0 puts all in one file.", low=0)
