"""Importers of the benchmarks of zero-shot segmentation as their authors and MMSegmentation lay them out.

PASCAL Context, COCO-Stuff, COCO-Object (the things of COCO-Stuff), Cityscapes and ADE20K: images, masks and which value
of a mask means which class. Their tags stay unknown.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.data.class_words import preset_names
from stages.data.folders import IMAGE_SUFFIXES, FileFinder, common_root, existing_folder
from stages.data.records import Listing, Record, counted
from stages.data.tables import check_id, ids_of, read_lines
from stages.errors import MissingInput


@dataclass(frozen=True)
class _Masks:
    """A folder of masks ({} is the split), what their names have behind the id, and what their values mean."""

    folder: str
    ending: str = ""
    label_map: str = ""


@dataclass(frozen=True)
class _Benchmark:
    """A layout: the preset that names its classes, whether there is a background, where images and masks may be."""

    preset: str
    background: bool
    split: str
    images: tuple[str, ...]
    masks: tuple[_Masks, ...]
    ending: str = ""
    lists: str = ""


_COCO_IMAGES = ("images/{}", "{}")
BENCHMARKS = {
    "context": _Benchmark("sclip-context", True, "val", ("JPEGImages",), (_Masks("SegmentationClassContext"),),
                          lists="ImageSets/SegmentationContext/{}.txt"),
    "coco-stuff": _Benchmark("sclip-stuff", False, "val2017", _COCO_IMAGES, (
        _Masks("annotations/{}", "_labelTrainIds", "from-zero"), _Masks("annotations/{}", "", "coco-stuff"),
        _Masks("stuffthingmaps/{}", "", "coco-stuff"))),
    "coco-object": _Benchmark("sclip-object", True, "val2017", _COCO_IMAGES, (
        _Masks("annotations/{}", "_instanceTrainIds"), _Masks("annotations/{}", "", "coco-object"),
        _Masks("stuffthingmaps/{}", "", "coco-object"))),
    "cityscapes": _Benchmark("sclip-cityscapes", False, "val", ("leftImg8bit/{}",), (
        _Masks("gtFine/{}", "_gtFine_labelTrainIds", "from-zero"),
        _Masks("gtFine/{}", "_gtFine_labelIds", "cityscapes")), ending="_leftImg8bit"),
    "ade20k": _Benchmark("sclip-ade", False, "validation", ("images/{}",), (_Masks("annotations/{}"),)),
}


def list_benchmark(name: str, root: Path, *, split: str = "", background: bool = True) -> Listing:
    """Return the listing of benchmark `name` below `root`, for which `BENCHMARKS` has a row.

    Without a `background` of a benchmark that has one, class 0 is void and its pixels don't count (Context59). Raises
    MissingInput when there is no image or no mask, naming the folders that were looked for.
    """
    layout, root = BENCHMARKS[name], existing_folder(root)
    split = split or layout.split
    images = _first_folder(root, [folder.format(split) for folder in layout.images])
    listed = root / layout.lists.format(split) if layout.lists else None
    if listed and listed.is_file():
        ids = ids_of(read_lines(listed), listed)
    else:
        ids = sorted(_below(images, layout.ending))
    if not ids:
        raise MissingInput("no image in it", "see --help for the layout", where=str(images))
    base, finder = common_root(root), FileFinder(images, common_root(root))
    masks, label_map = _masks(layout, root, split, ids)
    records = []
    for one in ids:
        path = finder.find(one + layout.ending) or finder.place(f"{one}{layout.ending}.jpg")
        records.append(Record(check_id(one, str(images)), path, mask_path=masks.get(one)))
    kept = background and layout.background
    notes = counted(sum(record.mask_path is None for record in records), len(records), "have no mask")
    told = f"masks: {label_map or 'class ids'}; {'with' if kept else 'without'} background; tags are unknown"
    classes = ("background" if kept else "", *preset_names(layout.preset))
    return Listing(base, classes, tuple(records), (told, *notes), "none", label_map)


def _first_folder(root: Path, folders: list[str]) -> Path:
    found = next((root / folder for folder in folders if (root / folder).is_dir()), None)
    if found is None:
        raise MissingInput(f"no folder {' or '.join(folders)}", "give the folder of the data set, and --split",
                           where=str(root))
    return found


def _below(images: Path, ending: str) -> Iterator[str]:
    """Yield the ids of the images below a folder: their paths without suffix and `ending`."""
    for path in images.rglob("*"):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.endswith(ending) and not path.name.startswith("."):
            stem = posixpath.splitext(path.relative_to(images).as_posix())[0]
            yield stem.removesuffix(ending)


def _masks(layout: _Benchmark, root: Path, split: str, ids: list[str]) -> tuple[dict[str, str], str]:
    """Return the masks' paths by id, of the first kind that is there, and the name of its label map."""
    for kind in layout.masks:
        folder = root / kind.folder.format(split)
        finder = FileFinder(folder, common_root(root), (".png",))
        found = {one: finder.find(one + kind.ending) for one in ids}
        if any(found.values()):
            return {one: path for one, path in found.items() if path is not None}, kind.label_map
    looked = ", ".join(f"{kind.folder.format(split)}/*{kind.ending}.png" for kind in layout.masks)
    raise MissingInput(f"no mask of {len(ids)} images is there", f"looked for {looked}", where=str(root))
