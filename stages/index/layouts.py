"""The importers of all data set layouts, by the name of the layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.data.layout_benchmark import BENCHMARKS, list_benchmark
from stages.data.layout_coco import list_coco
from stages.data.layout_folder import list_folder
from stages.data.layout_table import list_table
from stages.data.layout_voc import list_voc
from stages.data.layout_webdataset import list_webdataset
from stages.data.records import Listing
from stages.errors import UsageError

NamedInputs = Mapping[str, str | None]


def read_listing(layout: str, paths: list[Path], config: Any, named: NamedInputs,
                 classes: tuple[str, ...] | None = None) -> Listing:
    """Read the listing of a data set; `named` are the files and folders given by options.

    `classes` are the class names of a network, which then are those of the data set (position 0: the background).
    Only the layouts of MULTI_PATH_LAYOUTS accept several `paths`. Raises UsageError, MissingInput, BadData.
    """
    if layout in MULTI_PATH_LAYOUTS:
        listing = MULTI_PATH_LAYOUTS[layout](paths)
        return listing if classes is None else replace(listing, classes=classes)  # archives have no tags
    if classes is None:
        return _LAYOUTS[layout](paths[0], config, named)
    return _LAYOUTS[layout](paths[0], config, named, classes)


def _get_path(named: NamedInputs, name: str) -> Path | None:
    path = named.get(name)
    return Path(path) if path else None


def _get_image_folder(named: NamedInputs, default: Path | None = None) -> Path:
    folder = _get_path(named, "images") or default
    if folder is None:
        raise UsageError("--images is missing", "Give --images DIR, the folder of the images")
    return folder


def _read_voc(root: Path, config: Any, named: NamedInputs, classes: tuple[str, ...] | None = None) -> Listing:
    list_file = _get_path(named, "list")
    if bool(config.split) == bool(list_file):
        raise UsageError("exactly one of --split and --list is needed", "Give either --split NAME or --list FILE")
    listing = list_voc(root, split=config.split or None, list_file=list_file, masks=_get_path(named, "masks"),
                       sbd=_get_path(named, "sbd"), labels=_get_path(named, "labels"),
                       class_names=_get_path(named, "class_names"), classes=classes,
                       labels_from_masks=config.labels_from_masks)
    return listing if config.background else replace(listing, classes=("", *listing.classes[1:]))


def _read_table(table: Path, config: Any, named: NamedInputs, classes: tuple[str, ...] | None = None) -> Listing:
    images = _get_image_folder(named, table.parent if config.tags_only else None)
    return list_table(table, images=images, masks=_get_path(named, "masks"),
                      class_names=_get_path(named, "class_names"), classes=classes, require_images=not config.tags_only)


def _read_coco(annotations: Path, config: Any, named: NamedInputs) -> Listing:
    return list_coco(annotations, images=_get_image_folder(named), captions=_get_path(named, "captions"),
                     masks=_get_path(named, "masks"))


def _read_benchmark(name: str, root: Path, config: Any, named: NamedInputs) -> Listing:
    return list_benchmark(name, root, split=config.split, background=getattr(config, "background", True))


def _read_folder(folder: Path, config: Any, named: NamedInputs, classes: tuple[str, ...] | None = None) -> Listing:
    return list_folder(folder, class_names=_get_path(named, "class_names"), classes=classes)


_LAYOUTS: dict[str, Callable[..., Listing]] = {
    "voc": _read_voc, "table": _read_table, "coco": _read_coco, "folder": _read_folder,
    **{name: partial(_read_benchmark, name) for name in BENCHMARKS}}
MULTI_PATH_LAYOUTS: dict[str, Callable[[Sequence[Path]], Listing]] = {"webdataset": list_webdataset}
