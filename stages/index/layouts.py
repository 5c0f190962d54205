"""Which importer reads which layout: one line per layout."""

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

Named = Mapping[str, str | None]


def read_listing(layout: str, places: list[Path], config: Any, named: Named) -> Listing:
    """Return the listing of `places`, one but for the layouts of MANY; `named` are the further files and folders.

    Raises UsageError, MissingInput.
    """
    if layout in MANY:
        return MANY[layout](places)
    return _LAYOUTS[layout](places[0], config, named)


def _path(named: Named, name: str) -> Path | None:
    given = named.get(name)
    return Path(given) if given else None


def _images(named: Named, default: Path | None = None) -> Path:
    given = _path(named, "images") or default
    if given is None:
        raise UsageError("--images is missing", "give --images DIR")
    return given


def _voc(root: Path, config: Any, named: Named) -> Listing:
    listed = _path(named, "list")
    if bool(config.split) == bool(listed):
        raise UsageError("give either --split NAME or --list FILE")
    listing = list_voc(root, split=config.split or None, list_file=listed, masks=_path(named, "masks"),
                       sbd=_path(named, "sbd"), labels=_path(named, "labels"), class_names=_path(named, "class_names"),
                       labels_from_masks=config.labels_from_masks)
    return listing if config.background else replace(listing, classes=("", *listing.classes[1:]))


def _table(table: Path, config: Any, named: Named) -> Listing:
    images = _images(named, table.parent if config.tags_only else None)
    return list_table(table, images=images, masks=_path(named, "masks"), class_names=_path(named, "class_names"),
                      images_needed=not config.tags_only)


def _coco(annotations: Path, config: Any, named: Named) -> Listing:
    return list_coco(annotations, images=_images(named), captions=_path(named, "captions"),
                     masks=_path(named, "masks"))


def _benchmark(name: str, root: Path, config: Any, named: Named) -> Listing:
    return list_benchmark(name, root, split=config.split, background=getattr(config, "background", True))


def _folder(folder: Path, config: Any, named: Named) -> Listing:
    return list_folder(folder, class_names=_path(named, "class_names"))


_LAYOUTS: dict[str, Callable[[Path, Any, Named], Listing]] = {
    "voc": _voc, "table": _table, "coco": _coco, "folder": _folder,
    **{name: partial(_benchmark, name) for name in BENCHMARKS}}
MANY: dict[str, Callable[[Sequence[Path]], Listing]] = {"webdataset": list_webdataset}
