"""Reads a shard. A file under its final name is whole and never changes, so no lock is taken.

Whatever h5py throws (OSError, KeyError, RuntimeError, ValueError, TypeError were all met) becomes one line:
file, item, what was expected, what was found, what to do.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from h5py import h5d, h5g

from stages.errors import BadData, MissingInput, WsssError, refused_read
from stages.shards.items import Item, group_name
from stages.shards.request import request_of
from stages.shards.schema import COMMON_ATTRS, COMMON_ROOT, FORMAT, FORMAT_VERSION, KINDS, MAX_PIXELS, Array
from stages.shards.values import attributes_of, members_of, value_of

_Read = TypeVar("_Read")
MOST_OPEN = 64  # shards of a process
_CACHE = 2 << 20  # bytes, as HDF5 counts them; it takes about ten times as much
_ONE_PIXEL = (1, 1)
_REMAKE = "make it again, or see wsss check"


class NewerFormat(BadData):
    """A shard of a version that is not known here: what it holds may be as good as ever."""


@contextmanager
def answering(path: Path | str, item: str = "") -> Iterator[None]:
    """Turn any exception of h5py met inside into BadData that names the file and the item.

    IoFailed where the system refuses for reasons that say nothing of the file.
    """
    try:
        yield
    except (WsssError, MemoryError):
        raise
    except Exception as error:
        if refused := refused_read(error, path):
            raise refused from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"can't be read ({reason[:160]})", f"the file is damaged: {_REMAKE}",
                      where=_where(path, item)) from None


def _where(path: Path | str, item: str) -> str:
    return f"{path}: item {item}" if item else str(path)


_recent: OrderedDict[int, weakref.ref[Shard]] = OrderedDict()
_recent_lock = threading.Lock()


def _keep_few_open(shard: Shard) -> None:
    """Note that a shard is in use, and close the one that was not for longest when there are too many.

    A run of 1,000 shards would take as many file handles, of which some systems give 1,024, and a megabyte for each.
    """
    with _recent_lock:
        _recent[id(shard)] = weakref.ref(shard)
        _recent.move_to_end(id(shard))
        while len(_recent) > MOST_OPEN:
            oldest = _recent.popitem(last=False)[1]()
            if oldest is not None:
                oldest.release()


def _bound_cache(file: h5py.File) -> None:
    """Keep HDF5's cache of what it knows of a file small: by itself it took 450 MB for an index of 100,000 images."""
    limits = file.id.get_mdc_config()
    limits.set_initial_size, limits.initial_size, limits.max_size = True, _CACHE, _CACHE
    limits.min_size = min(limits.min_size, _CACHE)
    file.id.set_mdc_config(limits)


class Shard:
    """One shard, opened when it is first needed and once per process."""

    def __init__(self, path: Path | str, kind: str | tuple[str, ...] = ()) -> None:
        """Name the shard at `path`; with `kind`, raise BadData when it is of another. Raises MissingInput."""
        self.path = Path(path)
        self._files: dict[int, h5py.File] = {}
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "is not there"
            raise MissingInput(what, "give a shard that exists", where=str(path))
        self._check_root()
        if kind and self.kind not in ((kind,) if isinstance(kind, str) else kind):
            wanted = kind if isinstance(kind, str) else " or ".join(kind)
            raise BadData(f"holds {self.kind}, not {wanted}", f"give a shard of kind {wanted}", where=str(path))

    @property
    def file(self) -> h5py.File:
        """The open file; handles are not shared with child processes, and few stay open.

        It lives as long as somebody holds it: a reader keeps it by a name of its own until it has what it wants.
        """
        process = os.getpid()
        opened = self._files.get(process)
        if opened is None:
            try:
                opened = h5py.File(self.path, "r", locking=False)
                _bound_cache(opened)
                self._files[process] = opened
            except Exception as error:
                if refused := refused_read(error, self.path):
                    raise refused from None
                if isinstance(error, PermissionError):
                    raise BadData("can't be read (permission denied)", "see to its rights",
                                  where=str(self.path)) from None
                raise BadData(self._not_hdf5(error), _REMAKE, where=str(self.path)) from None
        _keep_few_open(self)
        return opened

    def _not_hdf5(self, error: Exception) -> str:
        with self.path.open("rb") as stream:
            signature = stream.read(8)
        if signature != b"\x89HDF\r\n\x1a\n":
            return f"is not a shard ({self.path.stat().st_size} bytes that are not HDF5)"
        reason = str(error)
        return "is cut short" if "truncated" in reason else f"can't be opened ({reason[:120]})"

    def _check_root(self) -> None:
        with answering(self.path):
            attributes = self._attributes
            if attributes.get("format") != FORMAT:
                raise BadData("is an HDF5 file but not a shard of wsss", "give a shard", where=str(self.path))
            version = str(attributes["format_version"])
            if _version(version) > _version(FORMAT_VERSION):
                raise NewerFormat(f"has format {version}; this wsss reads up to {FORMAT_VERSION}",
                                  "install a newer wsss", where=str(self.path))
            kind = attributes["kind"]
            if kind not in KINDS:
                raise BadData(f"has the unknown kind {kind!r}", _REMAKE, where=str(self.path))
            missing = [name for name in (*COMMON_ATTRS, *KINDS[kind].root_attrs) if name not in attributes]
            if missing:
                raise BadData(f"lacks the attribute {missing[0]}", _REMAKE, where=str(self.path))
            part, parts = int(attributes["part"]), int(attributes["parts"])
            if not 0 <= part < parts:
                raise BadData(f"says that it is part {part} of {parts}", _REMAKE, where=str(self.path))

    def attribute(self, name: str) -> Any:
        """Return a root attribute as str, int, float or array."""
        with answering(self.path):
            return self._attributes[name]

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        """The root attributes as str, int, float or array: read at once, h5py's own way took 0.1 ms for each."""
        file = self.file
        root = h5g.open(file.id, b"/")
        return {name.decode(): _plain(value_of(one)[()]) for name, one in attributes_of(root)}

    def root(self, name: str) -> np.ndarray:
        """Return a root dataset; BadData when it is not as the kind has it."""
        with answering(self.path):
            file = self.file
            if name not in file:
                raise BadData(f"lacks the dataset {name}", _REMAKE, where=str(self.path))
            found = value_of(h5d.open(file.id, name.encode()))
        for array in (*COMMON_ROOT, *KINDS[self.kind].root):
            if array.name == name:
                _check_array(array, found, self.path)
        return found

    @cached_property
    def kind(self) -> str:
        return self.attribute("kind")

    @cached_property
    def part(self) -> int:
        return int(self.attribute("part"))

    @cached_property
    def parts(self) -> int:
        return int(self.attribute("parts"))

    @cached_property
    def digest(self) -> str:
        return self.attribute("digest")

    @cached_property
    def index_digest(self) -> str:
        """The digest of the index behind it; an index's own."""
        return self.digest if self.kind == "index" else self.attribute("index_digest")

    @cached_property
    def provenance(self) -> list[dict[str, Any]]:
        with answering(self.path):
            entries = json.loads(self.attribute("provenance"))
            if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
                raise BadData("its provenance is no list of entries", _REMAKE, where=str(self.path))
            return entries

    @cached_property
    def max_pixels(self) -> int:
        """The most pixels that an image of this data set has: the limit that its index was made with."""
        configs = [entry.get("config") for entry in self.provenance]
        return max((config["max_pixels"] for config in configs if isinstance(config, dict)
                    and type(config.get("max_pixels")) is int), default=MAX_PIXELS)

    @property
    def request(self) -> dict[str, Any]:
        """What it was asked to be: stage, method, config and inputs of its last entry, and its part."""
        entry = self.provenance[-1] if self.provenance else {}
        return {**request_of(entry), "part": f"{self.part}/{self.parts}"}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.texts("classes")

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return self.texts("ids")

    @cached_property
    def errors(self) -> dict[str, str]:
        """The refused items and why."""
        with answering(self.path):
            return dict(zip(self.texts("error_ids"), self.texts("error_messages"), strict=True))

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a root dataset of strings."""
        with answering(self.path):
            return tuple(text.decode() for text in self.root(name).tolist())

    def item(self, item_id: str, *, without: tuple[str, ...] = ()) -> Item:
        """Return an item's datasets (but those in `without`) and attributes; a refused one with its error.

        Raises BadData when they are not as the kind has them.
        """
        if item_id in self.errors:
            return Item(item_id, error=self.errors[item_id])
        return self.stored(item_id, without=without)

    def stored(self, item_id: str, *, without: tuple[str, ...] = ()) -> Item:
        """Return an item as `item` does, of one that was not refused: its group alone is looked at."""
        with answering(self.path, item_id):
            file = self.file
            group = h5g.open(file.id, b"items/" + group_name(item_id).encode())
            names = [name for name in members_of(group) if name.decode() not in without]
            datasets = {name.decode(): self._bounded(h5d.open(group, name), name, item_id) for name in names}
            attrs = {name.decode(): _plain(value_of(one)[()]) for name, one in attributes_of(group)}
        self._check_item(item_id, datasets, attrs)
        return Item(item_id, datasets, attrs)

    def _bounded(self, node: h5d.DatasetID, name: bytes, item_id: str) -> np.ndarray:
        """Return a dataset of an item, unless it is a plane of more pixels than an image of this data set can have."""
        shape = node.shape or ()
        if len(shape) > 1 and math.prod(shape[-2:]) > self.max_pixels:
            raise self._too_large(name.decode(), shape[-2:], item_id)
        return value_of(node)

    def _too_large(self, what: str, size: tuple[int, ...], item_id: str) -> BadData:
        return BadData(f"its {what} has {size[0]}x{size[1]} pixels, over the limit of {self.max_pixels}", _REMAKE,
                       where=_where(self.path, item_id))

    def member(self, item_id: str, name: str) -> np.ndarray | None:
        """Return the dataset `name` of an item that was not refused, None where it has none. Raises BadData."""
        with answering(self.path, item_id):
            file = self.file
            node = _member(h5g.open(file.id, b"items"), group_name(item_id).encode(), name.encode())
            found = None if node is None else self._bounded(node, name.encode(), item_id)
        _check_array(next(array for array in KINDS[self.kind].item if array.name == name), found, self.path, item_id)
        return found

    def each(self, name: str) -> Iterator[tuple[str, np.ndarray | None]]:
        """Yield (id, dataset `name`) of every item that was not refused, None where it has none, and read no more.

        In the order of `ids`. Raises BadData when a dataset is not as the kind has it.
        """
        described = next(array for array in KINDS[self.kind].item if array.name == name)
        for item_id, found in self._of_each(name, partial(self._bounded, name=name.encode())):
            _check_array(described, found, self.path, item_id)
            yield item_id, found

    def shapes(self, name: str) -> Iterator[tuple[str, tuple[int, ...] | None]]:
        """Yield what `each` does with the shape instead of the dataset, which is not read."""
        return self._of_each(name, lambda node, item_id: node.shape)

    def _of_each(self, name: str, read: Callable[..., _Read]) -> Iterator[tuple[str, _Read | None]]:
        """Yield (id, `read(node, item_id=id)` of the dataset) as `each` does."""
        with answering(self.path):
            file = self.file
            items = h5g.open(file.id, b"items")
        for item_id in self.ids:
            if item_id not in self.errors:
                with answering(self.path, item_id):
                    node = _member(items, group_name(item_id).encode(), name.encode())
                    found = None if node is None else read(node, item_id=item_id)
                yield item_id, found

    def _check_item(self, item_id: str, datasets: dict[str, np.ndarray], attrs: dict[str, Any]) -> None:
        kind = KINDS[self.kind]
        for array in kind.item:
            _check_array(array, datasets.get(array.name), self.path, item_id)
        missing = [name for name in kind.item_attrs if name not in attrs]
        if missing:
            raise BadData(f"lacks the attribute {missing[0]}", _REMAKE, where=_where(self.path, item_id))
        size, covers = (attrs.get("height", 1), attrs.get("width", 1)), np.asarray(attrs.get("covers", _ONE_PIXEL))
        mapped = covers.shape == (2,) and covers.dtype.kind in "iu" and covers.min() > 0
        if not (mapped and all(type(side) is int and side > 0 for side in size)):
            raise BadData(f"its image of {size[0]}x{size[1]} pixels, or its map over {covers}, can't be", _REMAKE,
                          where=_where(self.path, item_id))
        if size[0] * size[1] > self.max_pixels:
            raise self._too_large("image", size, item_id)

    def items(self) -> Iterator[Item]:
        """Yield the items in the order of `ids`."""
        for item_id in self.ids:
            yield self.item(item_id)

    def release(self) -> None:
        """Let go of the file, which is closed when nobody reads it; a later read opens it again."""
        self._files.pop(os.getpid(), None)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        for process in [one for one in self._files if one == os.getpid()]:
            self._files.pop(process).close()

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        return Shard, (self.path,)


def _member(items: h5g.GroupID, group: bytes, name: bytes) -> h5d.DatasetID | None:
    """Return a dataset of an item's group; None where the group has none of this name."""
    try:
        return h5d.open(items, group + b"/" + name)
    except KeyError:
        opened = h5g.open(items, group)  # by a name of its own: `links` does not keep it open
        if opened.links.exists(name):
            raise
        return None


def _check_array(array: Array, found: np.ndarray | None, path: Path, item: str = "") -> None:
    if found is None:
        if array.required:
            raise BadData(f"lacks the dataset {array.name}", _REMAKE, where=_where(path, item))
        return
    # h5py gives strings of variable length, which another writer may have used, as objects.
    dtype = "S" if found.dtype.kind in "SO" else found.dtype.str
    if dtype not in array.dtypes or found.ndim != array.axes:
        raise BadData(f"{array.name} is {found.dtype.str} with {found.ndim} axes, not "
                      f"{' or '.join(array.dtypes)} with {array.axes}", _REMAKE, where=_where(path, item))
    if item and found.ndim > 1 and not all(found.shape[-2:]):
        raise BadData(f"its {array.name} has {found.shape[-2]}x{found.shape[-1]} pixels", _REMAKE,
                      where=_where(path, item))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))
