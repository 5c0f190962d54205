"""Import the benchmarks of zero-shot segmentation, in the folder layouts of their authors and of MMSegmentation.

PASCAL Context, COCO-Stuff, COCO-Object (the things of COCO-Stuff), Cityscapes and ADE20K: images, masks, and the class
that each value of a mask stands for. Tags are not imported.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.data.class_vocabulary import read_preset_class_names
from stages.data.folders import FileFinder, find_common_root, has_image_suffix, require_folder, walk_files
from stages.data.records import ImageRecord, Listing, describe_count
from stages.data.tables import check_id, parse_ids, read_id_lines
from stages.errors import MissingInput


@dataclass(frozen=True)
class _MaskFolder:
    """A folder of masks ({} is the split), what follows the id in their names, and the label map of their values."""

    folder: str
    ending: str = ""
    label_map: str = ""


@dataclass(frozen=True)
class _Benchmark:
    """A folder layout: the preset with its class names, and the folders where its images and masks may be."""

    preset: str
    background: bool
    split: str
    images: tuple[str, ...]
    masks: tuple[_MaskFolder, ...]
    ending: str = ""
    lists: str = ""


_COCO_IMAGES = ("images/{}", "{}")
BENCHMARKS = {
    "context": _Benchmark("sclip-context", True, "val", ("JPEGImages",), (_MaskFolder("SegmentationClassContext"),),
                          lists="ImageSets/SegmentationContext/{}.txt"),
    "coco-stuff": _Benchmark("sclip-stuff", False, "val2017", _COCO_IMAGES, (
        _MaskFolder("annotations/{}", "_labelTrainIds", "from-zero"), _MaskFolder("annotations/{}", "", "coco-stuff"),
        _MaskFolder("stuffthingmaps/{}", "", "coco-stuff"))),
    "coco-object": _Benchmark("sclip-object", True, "val2017", _COCO_IMAGES, (
        _MaskFolder("annotations/{}", "_instanceTrainIds"), _MaskFolder("annotations/{}", "", "coco-object"),
        _MaskFolder("stuffthingmaps/{}", "", "coco-object"))),
    "cityscapes": _Benchmark("sclip-cityscapes", False, "val", ("leftImg8bit/{}",), (
        _MaskFolder("gtFine/{}", "_gtFine_labelTrainIds", "from-zero"),
        _MaskFolder("gtFine/{}", "_gtFine_labelIds", "cityscapes")), ending="_leftImg8bit"),
    "ade20k": _Benchmark("sclip-ade", False, "validation", ("images/{}",), (_MaskFolder("annotations/{}"),)),
}


def list_benchmark(name: str, root: Path, *, split: str = "", background: bool = True) -> Listing:
    """List benchmark `name`, a key of `BENCHMARKS`, in the folder `root`.

    If `background` is False, a benchmark's background becomes void: its pixels are ignored (Context59). Raises
    MissingInput with the folders that were searched if there is no image or no mask.
    """
    layout, root = BENCHMARKS[name], require_folder(root)
    split = split or layout.split
    images = _find_first_folder(root, [folder.format(split) for folder in layout.images])
    list_file = root / layout.lists.format(split) if layout.lists else None
    if list_file and list_file.is_file():
        ids = parse_ids(read_id_lines(list_file), list_file)
    else:
        ids = sorted(_find_ids(images, layout.ending))
    if not ids:
        raise MissingInput("there is no image in this folder",
                           f"Run `wsss index {name} --help` to see the expected folders", where=str(images))
    base, finder = find_common_root(root), FileFinder(images, find_common_root(root))
    masks, label_map = _find_masks(layout, root, split, ids)
    records = []
    for image_id in ids:
        path = finder.find(image_id + layout.ending) or finder.relative_to_root(f"{image_id}{layout.ending}.jpg")
        records.append(ImageRecord(check_id(image_id, str(images)), path, mask_path=masks.get(image_id)))
    has_background = background and layout.background
    meaning = f"are converted to class ids by the label map {label_map}" if label_map else "are class ids"
    notes = (f"The values of the masks {meaning}; there is {'a' if has_background else 'no'} background. The tags are "
             "unknown.", *finder.describe_corrections(),
             *describe_count(sum(record.mask_path is None for record in records), len(records), "have no mask"))
    classes = ("background" if has_background else "", *read_preset_class_names(layout.preset))
    return Listing(base, classes, tuple(records), notes, "none", label_map)


def _find_first_folder(root: Path, folders: list[str]) -> Path:
    path = next((root / folder for folder in folders if (root / folder).is_dir()), None)
    if path is None:
        raise MissingInput(f"there is no folder {' or '.join(folders)}",
                           "Pass the folder of the data set, and its split with --split", where=str(root))
    return path


def _find_ids(images: Path, ending: str) -> Iterator[str]:
    """Yield the ids of the images below a folder: their paths without suffix and `ending`."""
    for path in walk_files(images):
        stem = posixpath.splitext(path)[0]
        if has_image_suffix(path) and stem.endswith(ending):
            yield stem.removesuffix(ending)


def _find_masks(layout: _Benchmark, root: Path, split: str, ids: list[str]) -> tuple[dict[str, str], str]:
    """Return the paths of the masks by id, from the first mask folder that has any, and the name of its label map."""
    for kind in layout.masks:
        folder = root / kind.folder.format(split)
        finder = FileFinder(folder, find_common_root(root), (".png",))
        paths = {image_id: finder.find(image_id + kind.ending) for image_id in ids}
        if any(paths.values()):
            return {image_id: path for image_id, path in paths.items() if path is not None}, kind.label_map
    patterns = " or ".join(f"{kind.folder.format(split)}/*{kind.ending}.png" for kind in layout.masks)
    raise MissingInput(f"none of the {len(ids)} images has a mask", f"Put the masks at {patterns}, or choose another "
                       "--split", where=str(root))
