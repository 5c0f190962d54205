"""Reads a run: its images one by one, by id, by number, or as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

import stages.shards as shards
from stages.data.image_source import ImageSource, find_image_root
from stages.errors import BadData, MissingInput
from stages.flow.index_lookup import find_index
from stages.flow.item_arrays import includes_background
from stages.shards import KINDS, Shard
from wsss_api.errors import UnknownId, suggest_similar
from wsss_api.items import (
    AnyItem,
    ClusterItem,
    FeatureItem,
    build_cam_item,
    build_index_item,
    build_mask_item,
    build_region_item,
)

if TYPE_CHECKING:
    import pandas

ItemT = TypeVar("ItemT")
_ROWS_PER_IMAGE = ("features", "labels", "assignment")
_PACKED = ("image", "mask")  # bytes of image files in an index, which `read_image` decodes


class Run(Generic[ItemT]):
    """The shards of one kind that belong together, opened when they are read.

    A run is a sequence of the images that did not fail: `len(run)`, `run[0]`, `run[-1]`, `run[2:5]`, `for item in run`.
    It is also a mapping by id: `run["IMG_0012"]`, `"IMG_0012" in run`. Items are dataclasses of the kind.
    """

    def __init__(self, paths: Iterable[str | Path], kind: str = "", *, root: str | Path | None = None,
                 index: str | Path | None = None, require_all: bool = True) -> None:
        """Use `open_run`, which documents the arguments."""
        self._run = shards.Run(paths, kind, require_all=require_all)
        self._root: str | None = None if root is None else os.fspath(root)
        self._index: str | None = None if index is None else os.fspath(index)
        self._sources: dict[Path, ImageSource] = {}
        self._rows: dict[Path, dict[str, np.ndarray]] = {}

    def __enter__(self) -> Run[ItemT]:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        failed = f", {len(self.errors)} failed" if self.errors else ""
        return f"<wsss.Run of {self.kind}: {len(self.ids)} images{failed}, {len(self.classes) - 1} classes>"

    def close(self) -> None:
        """Close all files. Reading from the run opens them again."""
        for shard in self._run.shards:
            shard.close()
        for source in self._sources.values():
            source.index.close()

    @property
    def kind(self) -> str:
        """What the run holds: index, features, clusters, cooc, cams, masks or regions."""
        return self._run.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by id. The first is the background, or "" for a data set without one."""
        return self._run.classes

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the run."""
        return tuple(shard.path for shard in self._run.shards)

    @property
    def root(self) -> Path:
        """The folder of the images. Raises MissingInput if the index of the run has moved."""
        if self._root:
            return Path(self._root)
        return find_image_root(shards.Run({find_index(shard, self._index) for shard in self._run.shards}, "index",
                                          require_all=False))

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """How the run was made: one entry per stage, with its settings and the digests of its inputs."""
        return self._run.first.provenance

    @cached_property
    def errors(self) -> dict[str, str]:
        """The failed images and why they failed."""
        return {item_id: reason for shard in self._run.shards for item_id, reason in shard.errors.items()}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids of the images that did not fail, in order. A cooc file has none."""
        if self.kind == "cooc":
            return ()
        return tuple(item_id for item_id in self._run.ids if item_id not in self.errors)

    @cached_property
    def _positions(self) -> dict[str, int]:
        """The position of each image in its shard."""
        return {item_id: position for shard in self._run.shards for position, item_id in enumerate(shard.ids)}

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays of a run of features, clusters or cooc; their rows are those of `ids`, without failed images."""
        parts = [self._read_root(shard) for shard in self._run.shards]
        kept = [np.array([item_id not in self.errors for item_id in shard.ids], bool) for shard in self._run.shards]
        return {name: np.concatenate([part[name][rows] for part, rows in zip(parts, kept, strict=True)])
                if name in _ROWS_PER_IMAGE else values for name, values in parts[0].items()}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._run.shard_by_id and item_id not in self.errors and self.kind != "cooc"

    def __iter__(self) -> Iterator[ItemT]:
        return (self._read(item_id) for item_id in self.ids)

    @overload
    def __getitem__(self, key: str | int) -> ItemT: ...

    @overload
    def __getitem__(self, key: slice) -> list[ItemT]: ...

    def __getitem__(self, key: str | int | slice) -> ItemT | list[ItemT]:
        """Return an image by id or number, or a list for a slice. Raises UnknownId, IndexError, BadData if it failed.
        """
        if isinstance(key, slice):
            return [self._read(item_id) for item_id in self.ids[key]]
        return self._read(key if isinstance(key, str) else self.ids[key])

    def read_image(self, item_id: str) -> np.ndarray:
        """Return the photograph of an image, (H, W, 3) uint8, as the stages see it. Raises BadData, MissingInput."""
        return self._open_source(item_id).read_image(item_id)

    def read_truth(self, item_id: str) -> np.ndarray:
        """Return the ground-truth mask of an image, (H, W) class ids. Raises BadData if the index has none."""
        return self._open_source(item_id).read_mask(item_id)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a table: a row per image, per image and class (cams, masks), or per class (cooc).

        Raises Unavailable if pandas is not installed.
        """
        from wsss_api.tables import build_table
        return build_table(self)

    def _read(self, item_id: str) -> ItemT:
        item: Any = self._build_item(self._find_shard(item_id), item_id)
        return item

    def _find_shard(self, item_id: str) -> Shard:
        """Return the shard of an image that did not fail. Raises UnknownId, BadData."""
        if item_id in self.errors:
            raise BadData(f"this image failed ({self.errors[item_id]})", "Skip it, or repair it and make the run again "
                          "with retry=True (or with force=True if it was imported)", where=item_id)
        shard = self._run.shard_by_id.get(item_id) if self.kind != "cooc" else None
        if shard is None:
            raise UnknownId(f"the run has no image {item_id!r}", suggest_similar(item_id, self.ids, "ids"),
                            where=str(self._run.first.path))
        return shard

    def _build_item(self, shard: Shard, item_id: str) -> AnyItem:
        if self.kind == "index":
            return build_index_item(shard.stored_item(item_id, exclude=_PACKED), self.classes)
        if self.kind == "cams":
            return build_cam_item(shard.stored_item(item_id), self.classes, has_background=includes_background(shard))
        if self.kind == "masks":
            return build_mask_item(shard.stored_item(item_id), self.classes)
        if self.kind == "regions":
            return build_region_item(shard.stored_item(item_id))
        rows, position = self._read_root(shard), self._positions[item_id]
        if self.kind == "features":
            return FeatureItem(item_id, rows["features"][position], rows["labels"][position])
        return ClusterItem(item_id, rows["assignment"][position])

    def _read_root(self, shard: Shard) -> dict[str, np.ndarray]:
        """Return the root datasets of a shard, read once."""
        if shard.path not in self._rows:
            self._rows[shard.path] = {array.name: shard.read_root(array.name) for array in KINDS[shard.kind].root
                                      if array.required}
        return self._rows[shard.path]

    def _open_source(self, item_id: str) -> ImageSource:
        """Return the source of the photographs of the shard that has an image."""
        index = find_index(self._find_shard(item_id), self._index)
        if index not in self._sources:
            self._sources[index] = ImageSource(Shard(index, "index"), self._root)
        return self._sources[index]


def open_run(paths: Any, kind: str | None = None, **options: Any) -> Run[Any]:
    """Open a run; see `wsss.open_run`."""
    return Run(list_paths(paths), kind or "", **options)


def list_paths(paths: Any) -> list[str]:
    """Return the paths of a path, a Run, the result of a command, or an iterable of these.

    Raises MissingInput for a result that wrote nothing.
    """
    if isinstance(paths, (str, os.PathLike)):
        return [os.fspath(paths)]
    written = getattr(paths, "paths", None)
    if written is None:
        return [path for element in paths for path in list_paths(element)]
    if not written:
        raise MissingInput(f"{paths!r} wrote no file", "Pass the result of a command that wrote one")
    return [str(path) for path in written]
