"""Settings of `wsss import`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class ImportConfig:
    """Settings of every `import` command."""

    shard_size: int = setting(256, "Number of images per shard, unless the index has several shards: then each makes "
                              "one.", low=1)


@dataclass(frozen=True)
class FilesConfig(ImportConfig):
    """Settings of the commands that import a folder of files."""

    pattern: str = setting("{id}", "Form of the file names, with {id} in place of the image id: '{id}_mask.png'. "
                           "Without a suffix, any that can be read is meant.")


@dataclass(frozen=True)
class MasksConfig(FilesConfig):
    """Settings of `import masks`."""

    mask_values: str = setting("", "Meaning of the values in the masks: FROM=TO pairs separated by commas, or a file "
                               "with one pair per line, or CVAT's labelmap.txt. FROM is a number or a colour "
                               "(#RRGGBB); TO is a class name, a class id, background or ignore. If empty, the values "
                               "are class ids.")


@dataclass(frozen=True)
class CamsConfig(FilesConfig):
    """Settings of `import cams`."""

    ids_from: int = setting(0, "Number of the first foreground class in the files: 0, or 1 if 0 is the background. "
                            "Class names need no number.", low=0, high=1, source="IRN, PSA and CLIP-ES count from 0")
    array: str = setting("", "Name of the maps in .npy and .npz files that hold several: high_res or cam of IRN. If "
                         "empty, attn_highres, high_res or cam, whichever exists first.")
    background: str = setting("none", "Whether the maps include one of the background, as those refined by a CRF.",
                              choices=("none", "included"))
    normalise: str = setting("none", "How values become scores in [0, 1]: none rejects others; maximum sets negative "
                             "values to 0 and divides each map by its maximum.", choices=("none", "maximum"))
    other_classes: str = setting("reject", "What to do with maps of classes that are not among the tags of the image.",
                                 choices=("reject", "keep", "drop"))
    stride: int = setting(0, "Pixels per cell of maps that span the image padded to a multiple of this; 0 if they span "
                          "exactly the image.", low=0, unit="pixels")


@dataclass(frozen=True)
class CocoConfig(ImportConfig):
    """Settings of `import coco`."""

    min_score: float = setting(0.5, "Leave out instances with a lower score.")


@dataclass(frozen=True)
class RegionsConfig(FilesConfig):
    """Settings of `import regions`."""

    on_top: str = setting("smaller", "Which of overlapping regions in a JSON file is seen: the smaller, the larger (as "
                          "in CorrCLIP), the one with the higher score, or the later one in the order of the file.",
                          choices=("smaller", "larger", "score", "order"))
    none_value: int = setting(0, "Label that marks pixels without a region besides 0, such as 255 for the borders in "
                              "VOC's masks of objects.", low=0)
