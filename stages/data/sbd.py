"""Find the masks of the Semantic Boundaries Dataset (SBD), and build the train set that it and PASCAL VOC form.

Hariharan et al., "Semantic Contours from Inverse Detectors" (ICCV 2011). Its 11,355 images are VOC's. Those outside
VOC's val, together with VOC's own train, are the 10,582 images (1,464 + 9,118) called train_aug in the literature.
"""

from __future__ import annotations

from pathlib import Path

from stages.data.folders import require_folder
from stages.data.tables import parse_ids, read_id_lines
from stages.errors import MissingInput

TRAIN_AUG = "train_aug"
NUM_TRAIN_AUG_IMAGES = 10_582
_MASK_FOLDERS = ("cls", "dataset/cls", "benchmark_RELEASE/dataset/cls")
_FOLDER_REMEDY = "Use --sbd with SBD's folder benchmark_RELEASE, its dataset, or dataset/cls"


def find_sbd_masks(folder: Path) -> Path:
    """Find the folder of SBD's class masks, ID.mat: in the release, in its `dataset`, or `folder` itself.

    Raises MissingInput.
    """
    folder = require_folder(folder, _FOLDER_REMEDY)
    mask_folder = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), folder)
    if not any(mask_folder.glob("*.mat")):
        raise MissingInput("there is no .mat file", _FOLDER_REMEDY, where=str(mask_folder))
    return mask_folder


def list_train_aug(lists: Path, sbd_masks: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return (ids, notes): VOC's train and the images of SBD outside VOC's val, sorted as in the published list.

    `lists` is ImageSets/Segmentation, `sbd_masks` the folder of SBD's masks. Raises MissingInput for a missing list.
    """
    train, val = (_read_ids(lists / f"{split}.txt") for split in ("train", "val"))
    # An archive packed on a Mac has a "._ID.mat" next to each ID.mat.
    added = {path.stem for path in sbd_masks.glob("*.mat") if not path.name.startswith(".")} - val - train
    num_images = len(train) + len(added)
    note = (f"The split {TRAIN_AUG} has {len(train)} images of train.txt and {len(added)} more of SBD that are not in "
            "val.txt.")
    if num_images != NUM_TRAIN_AUG_IMAGES:
        note += f" That is {num_images} images; the published list has {NUM_TRAIN_AUG_IMAGES}."
    return sorted(train | added), (note,)


def _read_ids(path: Path) -> set[str]:
    if not path.is_file():
        raise MissingInput(f"there is no such file, but {TRAIN_AUG} is built from train.txt and val.txt",
                           "Add both files, or use --list FILE", where=str(path))
    return set(parse_ids(read_id_lines(path), path))
