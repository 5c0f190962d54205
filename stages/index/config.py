"""Settings of `wsss index`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class IndexConfig:
    """Settings of every `index` command that reads a data set."""

    pack: bool = setting(False, "Store the encoded images and masks in the index, so that it needs no other files.")
    tags_only: bool = setting(False, "Index the tags only and open no image.")
    apply_exif: bool = setting(False, "Apply the EXIF orientation of images; masks must fit the rotated image.")
    max_pixels: int = setting(200_000_000, "Reject images with more pixels than this.", low=1)
    shard_size: int = setting(0, "Number of images per shard; 0 writes all images to one file.", low=0)
    allow_contradictions: bool = setting(False, "Write the index even if the masks of many images contradict their "
                                         "tags.")
    mask_values: str = setting("", "What values of the masks mean, as FROM=TO,... (255=cat), or a file with one per "
                               "line (CVAT's labelmap.txt). FROM is a value or colour (#RRGGBB), TO a class, "
                               "background, ignore or an id.")


@dataclass(frozen=True)
class VocConfig(IndexConfig):
    """Settings of `index voc`."""

    split: str = setting("", "Name of a list in ImageSets/Segmentation, without .txt.")
    labels_from_masks: bool = setting(
        False, "Read the tags from the ground-truth masks; this leaks pixel labels, and the index records it.")
    background: bool = setting(True, "Treat all other pixels as a background class; otherwise they are ignored "
                               "(VOC20).")


@dataclass(frozen=True)
class BenchmarkConfig(IndexConfig):
    """Settings of `index coco-stuff`, `coco-object`, `cityscapes` and `ade20k`."""

    split: str = setting("", "Split to index; empty selects the split that is scored (val, val2017 or validation).")


@dataclass(frozen=True)
class ContextConfig(BenchmarkConfig):
    """Settings of `index context`."""

    background: bool = setting(True, "Treat all other pixels as a background class; otherwise they are ignored "
                               "(Context59).")


@dataclass(frozen=True)
class FolderConfig(IndexConfig):
    """Settings of `index folder` and `index webdataset`."""


@dataclass(frozen=True)
class TableConfig(FolderConfig):
    """Settings of `index table`."""

    id_column: str = setting("", "Column with the ids, file names or paths of the images; empty finds it by its name.")
    tags_column: str = setting("", "Column with the tags; empty finds it by its name (labels, tags, class, ...).")
    tags: bool = setting(True, "Read the tags of the table; --no-tags indexes images whose tags are unknown.")


@dataclass(frozen=True)
class ShapesConfig(IndexConfig):
    """Settings of the `index` commands that read outlines of objects."""

    draw_masks: bool = setting(True, "Draw ground-truth masks from the outlines of the objects, and store them in the "
                               "index.")


@dataclass(frozen=True)
class YoloConfig(ShapesConfig):
    """Settings of `index yolo`."""

    split: str = setting("", "Split to index (train, val, test); needed if the data set has several.")


@dataclass(frozen=True)
class FiftyoneConfig(ShapesConfig):
    """Settings of `index fiftyone`."""

    field: str = setting("ground_truth", "Field of the samples that has the labels.")


@dataclass(frozen=True)
class SplitConfig:
    """Settings of `index split`."""

    single: bool = setting(False, "Keep the images with exactly one class (the source domain).", source="CSD")
    multi: bool = setting(False, "Keep the images with more than one class (the target domain).", source="CSD")
    holdout: float = setting(0.0, "Share of the images to hold out for scoring, of every class alike; they are written "
                             "to --held-out.", low=0.0, high=0.9, source="Sechidis et al., ECML 2011")
    seed: int = setting(0, "Seed that decides which images are held out.", low=0)
    shard_size: int = setting(0, "Number of images per shard; 0 writes all images to one file.", low=0)
