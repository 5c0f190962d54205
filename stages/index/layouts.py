"""The importers of all data set layouts, by the name of the layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.data.layout_benchmark import BENCHMARKS, list_benchmark
from stages.data.layout_coco import list_coco
from stages.data.layout_cvat import list_cvat
from stages.data.layout_fiftyone import list_fiftyone
from stages.data.layout_folder import list_folder
from stages.data.layout_labelme import list_labelme
from stages.data.layout_labelstudio import list_labelstudio
from stages.data.layout_table import list_table
from stages.data.layout_voc import list_voc
from stages.data.layout_webdataset import list_webdataset
from stages.data.layout_yolo import list_yolo
from stages.data.records import Listing
from stages.errors import UsageError

NamedInputs = Mapping[str, str | None]


def read_listing(layout: str, paths: list[Path], config: Any, named: NamedInputs,
                 classes: tuple[str, ...] | None = None) -> Listing:
    """Read the listing of a data set; `named` are the files and folders given by options.

    `classes` are the class names of a network, which then are those of the data set (position 0: the background).
    Only the layouts of MULTI_PATH_LAYOUTS accept several `paths`. Raises UsageError, MissingInput, BadData.
    """
    if layout == "coco":
        return _read_coco(paths, config, named)
    if layout in MULTI_PATH_LAYOUTS:
        listing = list_webdataset(paths, packs_images=config.pack and not config.tags_only)
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


def find_image_folder(layout: str, paths: Sequence[Path], named: NamedInputs) -> Path | None:
    """Return the folder all of whose images a user expects in the index; None for layouts that select from lists."""
    if layout == "folder":
        return paths[0]
    if layout == "coco":
        return _find_coco_images(paths, named)
    return _get_path(named, "images") if layout == "table" else None


def _read_voc(root: Path, config: Any, named: NamedInputs, classes: tuple[str, ...] | None = None) -> Listing:
    list_file = _get_path(named, "list")
    if bool(config.split) == bool(list_file):
        raise UsageError("exactly one of --split and --list is needed", "Give either --split NAME or --list FILE")
    listing = list_voc(root, split=config.split or None, list_file=list_file, masks=_get_path(named, "masks"),
                       sbd=_get_path(named, "sbd"), labels=_get_path(named, "labels"),
                       class_names=_get_path(named, "class_names"), classes=classes,
                       labels_from_masks=config.labels_from_masks, mask_values=config.mask_values)
    return listing if config.background else replace(listing, classes=("", *listing.classes[1:]))


def _read_table(table: Path, config: Any, named: NamedInputs, classes: tuple[str, ...] | None = None) -> Listing:
    images = _get_image_folder(named, table.parent if config.tags_only else None)
    return list_table(table, images=images, masks=_get_path(named, "masks"),
                      class_names=_get_path(named, "class_names"), classes=classes, require_images=not config.tags_only,
                      id_column=config.id_column, tags_column=config.tags_column, reads_tags=config.tags,
                      has_mask_values=_has_mask_values(config))


def _has_mask_values(config: Any) -> bool:
    """Return whether the user has stated what the values of masks mean."""
    return bool(getattr(config, "mask_values", ""))


def _read_coco(annotations: list[Path], config: Any, named: NamedInputs) -> Listing:
    return list_coco(*annotations, images=_find_coco_images(annotations, named), captions=_get_path(named, "captions"),
                     masks=_get_path(named, "masks"), draw_masks=_should_draw_masks(config))


def _read_yolo(path: Path, config: Any, named: NamedInputs) -> Listing:
    return list_yolo(path, split=config.split, draw_masks=_should_draw_masks(config))


def _read_cvat(path: Path, config: Any, named: NamedInputs) -> Listing:
    return list_cvat(path, images=_get_path(named, "images"), draw_masks=_should_draw_masks(config))


def _read_labelme(folder: Path, config: Any, named: NamedInputs) -> Listing:
    return list_labelme(folder, images=_get_path(named, "images"), class_names=_get_path(named, "class_names"),
                        draw_masks=_should_draw_masks(config))


def _read_labelstudio(file: Path, config: Any, named: NamedInputs) -> Listing:
    return list_labelstudio(file, images=_get_path(named, "images"), class_names=_get_path(named, "class_names"),
                            draw_masks=_should_draw_masks(config))


def _read_fiftyone(folder: Path, config: Any, named: NamedInputs) -> Listing:
    return list_fiftyone(folder, field=config.field, images=_get_path(named, "images"),
                         class_names=_get_path(named, "class_names"), draw_masks=_should_draw_masks(config))


def _should_draw_masks(config: Any) -> bool:
    return config.draw_masks and not config.tags_only


def _find_coco_images(annotations: Sequence[Path], named: NamedInputs) -> Path:
    # Roboflow's exports have the images next to the file, under this name.
    is_next_to_images = len(annotations) == 1 and annotations[0].name == "_annotations.coco.json"
    return _get_image_folder(named, annotations[0].parent if is_next_to_images else None)


def _read_benchmark(name: str, root: Path, config: Any, named: NamedInputs) -> Listing:
    return list_benchmark(name, root, split=config.split, background=getattr(config, "background", True))


def _read_folder(folder: Path, config: Any, named: NamedInputs, classes: tuple[str, ...] | None = None) -> Listing:
    return list_folder(folder, class_names=_get_path(named, "class_names"), classes=classes)


_LAYOUTS: dict[str, Callable[..., Listing]] = {
    "voc": _read_voc, "table": _read_table, "folder": _read_folder,
    "yolo": _read_yolo, "cvat": _read_cvat, "labelme": _read_labelme, "labelstudio": _read_labelstudio,
    "fiftyone": _read_fiftyone,
    **{name: partial(_read_benchmark, name) for name in BENCHMARKS}}
MULTI_PATH_LAYOUTS = ("webdataset", "coco")
