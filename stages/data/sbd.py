"""The Semantic Boundaries Dataset beside PASCAL VOC: where its masks lie, and the train set that the two make.

Hariharan et al., "Semantic Contours from Inverse Detectors" (ICCV 2011). Its 11,355 images are VOC's. Those outside
VOC's val, with VOC's own train, are the 10,582 images (1,464 + 9,118) that the field calls train_aug.
"""

from __future__ import annotations

from pathlib import Path

from stages.data.folders import existing_folder
from stages.data.tables import ids_of, read_lines
from stages.errors import MissingInput

TRAIN_AUG = "train_aug"
TRAIN_AUG_IMAGES = 10_582
_PLACES = ("cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")


def masks_of_sbd(folder: Path) -> Path:
    """Return the folder of SBD's class masks, ID.mat: below the release, below its `dataset`, or `folder` itself.

    Raises MissingInput.
    """
    folder = existing_folder(folder, "give SBD's folder benchmark_RELEASE, its dataset, or dataset/cls")
    found = [folder / place for place in _PLACES if (folder / place).is_dir()]
    cls = found[0] if found else folder
    if not any(cls.glob("*.mat")):
        raise MissingInput("no .mat file", "give SBD's folder benchmark_RELEASE, its dataset, or dataset/cls",
                           where=str(cls))
    return cls


def train_aug(lists: Path, cls: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return (ids, notes): VOC's train and the images of SBD outside VOC's val, sorted as in the published list.

    `lists` is ImageSets/Segmentation, `cls` the folder of SBD's masks. Raises MissingInput for a missing list.
    """
    train, val = (_listed(lists / f"{split}.txt") for split in ("train", "val"))
    # An archive packed on a Mac has a "._ID.mat" beside each.
    more = {path.stem for path in cls.glob("*.mat") if not path.name.startswith(".")} - val - train
    count = len(train) + len(more)
    note = f"split {TRAIN_AUG}: {len(train)} images of train.txt and {len(more)} more of SBD, without those of val.txt"
    return sorted(train | more), (note if count == TRAIN_AUG_IMAGES else
                                  f"{note}; {count} together, the published list has {TRAIN_AUG_IMAGES}",)


def _listed(path: Path) -> set[str]:
    if not path.is_file():
        raise MissingInput(f"{TRAIN_AUG} is made of train.txt and val.txt", "bring both, or give --list FILE",
                           where=str(path))
    return set(ids_of(read_lines(path), path))
