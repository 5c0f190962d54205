"""Reads shards. A file under its final name is complete and never changes, so readers take no lock.

Any exception of h5py (OSError, KeyError, RuntimeError, ValueError and TypeError all occur) becomes an error in one line
that names the file, the item, what was expected and what was read, and how to fix it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from h5py import h5d, h5g

from stages import STAGES
from stages.errors import BadData, MissingInput, explain_read_error
from stages.shards.items import Item, group_name
from stages.shards.read_errors import REMAKE, format_location, translate_read_errors
from stages.shards.request import extract_request
from stages.shards.schema import COMMON_ATTRS, COMMON_ROOT, FORMAT, FORMAT_VERSION, KINDS, MAX_PIXELS, Array
from stages.shards.values import iterate_attributes, list_members, read_value

_Read = TypeVar("_Read")
MAX_OPEN_SHARDS = 64  # in one process
_CACHE_BYTES = 2 << 20  # as HDF5 counts them; it uses about ten times as much memory
_ONE_PIXEL = (1, 1)
_NOT_HDF5 = "Give a shard that wsss wrote. If this was one, it is damaged: run the command that made it again"


class NewerFormat(BadData):
    """A shard of a newer format version; its contents may be intact."""


_open_shards: OrderedDict[int, weakref.ref[Shard]] = OrderedDict()
_open_shards_lock = threading.Lock()


def _close_least_recently_used(shard: Shard) -> None:
    """Mark a shard as recently used, and release the least recently used ones when too many are open.

    A run of 1,000 shards would need 1,000 file handles (some systems allow 1,024) and a megabyte for each.
    """
    with _open_shards_lock:
        _open_shards[id(shard)] = weakref.ref(shard)
        _open_shards.move_to_end(id(shard))
        while len(_open_shards) > MAX_OPEN_SHARDS:
            oldest = _open_shards.popitem(last=False)[1]()
            if oldest is not None:
                oldest.release()


def _limit_metadata_cache(file: h5py.File) -> None:
    """Limit HDF5's metadata cache of a file: without a limit it took 450 MB for an index of 100,000 images."""
    limits = file.id.get_mdc_config()
    limits.set_initial_size, limits.initial_size, limits.max_size = True, _CACHE_BYTES, _CACHE_BYTES
    limits.min_size = min(limits.min_size, _CACHE_BYTES)
    file.id.set_mdc_config(limits)


class Shard:
    """One shard, opened on first use and once per process."""

    def __init__(self, path: Path | str, kind: str | tuple[str, ...] = ()) -> None:
        """Open the shard at `path`; raise MissingInput if there is none, BadData if it is not of the given `kind`."""
        self.path = Path(path)
        self._files: dict[int, h5py.File] = {}
        if not self.path.is_file():
            problem = "is a folder" if self.path.is_dir() else "does not exist"
            raise MissingInput(problem, "Give an existing shard", where=str(path))
        self._check_root()
        if kind and self.kind not in ((kind,) if isinstance(kind, str) else kind):
            raise self._build_kind_error((kind,) if isinstance(kind, str) else kind)

    def _build_kind_error(self, kinds: tuple[str, ...]) -> BadData:
        expected = " or ".join(kinds)
        commands = " or ".join(f"`wsss {stage.name}`" for stage in STAGES if stage.writes in kinds)
        return BadData(f"holds {self.kind}, not {expected}", f"Give a shard of kind {expected}, made with {commands}",
                       where=str(self.path))

    @property
    def file(self) -> h5py.File:
        """The open file; handles are not shared with child processes, and few stay open.

        `release` may drop the reference of the shard at any time, so a reader keeps its own until it has finished.
        """
        process = os.getpid()
        opened = self._files.get(process)
        if opened is None:
            try:
                opened = h5py.File(self.path, "r", locking=False)
                _limit_metadata_cache(opened)
                self._files[process] = opened
            except Exception as error:
                if system_error := explain_read_error(error, self.path):
                    raise system_error from None
                if isinstance(error, PermissionError):
                    raise BadData("can't be read (permission denied)", "Change its permissions with chmod",
                                  where=str(self.path)) from None
                raise self._build_open_error(error) from None
        _close_least_recently_used(self)
        return opened

    def _build_open_error(self, error: Exception) -> BadData:
        with self.path.open("rb") as stream:
            signature = stream.read(8)
        if signature != b"\x89HDF\r\n\x1a\n":
            return BadData(f"is not a shard ({self.path.stat().st_size} bytes that are not HDF5)", _NOT_HDF5,
                           where=str(self.path))
        reason = str(error)
        message = "is truncated" if "truncated" in reason else f"can't be opened ({reason[:120]})"
        return BadData(message, REMAKE, where=str(self.path))

    def _check_root(self) -> None:
        with translate_read_errors(self.path):
            attributes = self._attributes
            if attributes.get("format") != FORMAT:
                raise BadData("is an HDF5 file but not a shard of wsss", "Give a shard", where=str(self.path))
            version = str(attributes["format_version"])
            if _parse_version(version) > _parse_version(FORMAT_VERSION):
                raise NewerFormat(f"has format {version} but this wsss reads up to {FORMAT_VERSION}",
                                  "Install a newer wsss", where=str(self.path))
            kind = attributes["kind"]
            if kind not in KINDS:
                raise BadData(f"has the unknown kind {kind!r}", REMAKE, where=str(self.path))
            missing = [name for name in (*COMMON_ATTRS, *KINDS[kind].root_attrs) if name not in attributes]
            if missing:
                raise BadData(f"lacks the attribute {missing[0]}", REMAKE, where=str(self.path))
            part, parts = int(attributes["part"]), int(attributes["parts"])
            if not 0 <= part < parts:
                raise BadData(f"claims to be part {part} of {parts}, but parts count from 0", REMAKE,
                              where=str(self.path))

    def attribute(self, name: str) -> Any:
        """Return a root attribute as str, int, float or array."""
        with translate_read_errors(self.path):
            return self._attributes[name]

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        """The root attributes as str, int, float or array, all read at once: h5py's own way took 0.1 ms for each."""
        file = self.file
        root = h5g.open(file.id, b"/")
        return {name.decode(): _to_plain_value(read_value(attribute)[()])
                for name, attribute in iterate_attributes(root)}

    def read_root(self, name: str) -> np.ndarray:
        """Return a root dataset; raise BadData if it does not have the type and axes of its kind."""
        with translate_read_errors(self.path):
            file = self.file
            if name not in file:
                raise BadData(f"lacks the dataset {name}", REMAKE, where=str(self.path))
            values = read_value(h5d.open(file.id, name.encode()))
        for array in (*COMMON_ROOT, *KINDS[self.kind].root):
            if array.name == name:
                _check_array(array, values, self.path)
        return values

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
        """The digest of the index that the shard was made from; of an index, its own digest."""
        return self.digest if self.kind == "index" else self.attribute("index_digest")

    @cached_property
    def images_digest(self) -> str:
        """The digest of the images of the shard (not of their tags or masks); empty in a shard of format 1.0."""
        return str(self._attributes.get("images_digest", ""))

    @cached_property
    def provenance(self) -> list[dict[str, Any]]:
        with translate_read_errors(self.path):
            entries = json.loads(self.attribute("provenance"))
            if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
                raise BadData("its provenance is not a list of entries", REMAKE, where=str(self.path))
            return entries

    @cached_property
    def max_pixels(self) -> int:
        """The maximum number of pixels of an image: the limit that the index was made with."""
        configs = [entry.get("config") for entry in self.provenance]
        return max((config["max_pixels"] for config in configs if isinstance(config, dict)
                    and type(config.get("max_pixels")) is int), default=MAX_PIXELS)

    @property
    def request(self) -> dict[str, Any]:
        """The request that made the shard: stage, method, config and inputs of its last entry, and its part."""
        entry = self.provenance[-1] if self.provenance else {}
        return {**extract_request(entry), "part": f"{self.part}/{self.parts}"}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.read_strings("classes")

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return self.read_strings("ids")

    @property
    def num_images(self) -> int:
        """The number of ids, without reading them."""
        with translate_read_errors(self.path):
            return len(self.file["ids"])

    @cached_property
    def errors(self) -> dict[str, str]:
        """The failed items and their error messages."""
        with translate_read_errors(self.path):
            return dict(zip(self.read_strings("error_ids"), self.read_strings("error_messages"), strict=True))

    def read_strings(self, name: str) -> tuple[str, ...]:
        """Return a root dataset of strings."""
        with translate_read_errors(self.path):
            return tuple(text.decode() for text in self.read_root(name).tolist())

    def item(self, item_id: str, *, exclude: tuple[str, ...] = ()) -> Item:
        """Return an item with its attributes and datasets (except those in `exclude`); a failed one with its error.

        Raises BadData if they do not match the kind of the shard.
        """
        if item_id in self.errors:
            return Item(item_id, error=self.errors[item_id])
        return self.stored_item(item_id, exclude=exclude)

    def stored_item(self, item_id: str, *, exclude: tuple[str, ...] = ()) -> Item:
        """Return an item that did not fail, as `item` does; reads only the group of the item."""
        return self.read_item_values(item_id, {}, exclude=exclude)

    def read_item_values(self, item_id: str, values: dict[bytes, np.ndarray], *, exclude: tuple[str, ...] = ()) -> Item:
        """Return an item as `stored_item` does, and add all that was read to `values` by its path in the digest."""
        path = b"items/" + group_name(item_id).encode()
        with translate_read_errors(self.path, item_id):
            file = self.file
            group = h5g.open(file.id, path)
            names = [name for name in list_members(group) if name.decode() not in exclude]
            datasets = {name: self._read_bounded(h5d.open(group, name), name, item_id) for name in names}
            attrs = {name: read_value(attribute) for name, attribute in iterate_attributes(group)}
            item = Item(item_id, {name.decode(): array for name, array in datasets.items()},
                        {name.decode(): _to_plain_value(array[()]) for name, array in attrs.items()})
        values.update((path + b"/" + name, array) for name, array in datasets.items())
        values.update((path + b"@" + name, array) for name, array in attrs.items())
        self._check_item(item_id, item.datasets, item.attrs)
        return item

    def _read_bounded(self, node: h5d.DatasetID, name: bytes, item_id: str) -> np.ndarray:
        """Return a dataset of an item; raise BadData if it has more pixels than `max_pixels`."""
        shape = node.shape or ()
        if len(shape) > 1 and math.prod(shape[-2:]) > self.max_pixels:
            raise self._build_size_error(name.decode(), shape[-2:], item_id)
        return read_value(node)

    def _build_size_error(self, name: str, size: tuple[int, ...], item_id: str) -> BadData:
        return BadData(f"its {name} has {size[0]}x{size[1]} pixels, over the limit of {self.max_pixels}", REMAKE,
                       where=format_location(self.path, item_id))

    def read_item_dataset(self, item_id: str, name: str) -> np.ndarray | None:
        """Return the dataset `name` of an item that did not fail, None if it has none. Raises BadData."""
        with translate_read_errors(self.path, item_id):
            file = self.file
            node = _open_dataset(h5g.open(file.id, b"items"), group_name(item_id).encode(), name.encode())
            values = None if node is None else self._read_bounded(node, name.encode(), item_id)
        _check_array(next(array for array in KINDS[self.kind].item if array.name == name), values, self.path, item_id)
        return values

    def iterate_datasets(self, name: str,
                         ids: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray | None]]:
        """Yield (id, dataset `name`) of every item that did not fail, None if it has none, without reading other data.

        In the order of `ids`, by default those of the shard. Raises BadData if a dataset does not match the kind of the
        shard.
        """
        expected = next(array for array in KINDS[self.kind].item if array.name == name)
        for item_id, values in self._read_from_items(name, partial(self._read_bounded, name=name.encode()), ids):
            _check_array(expected, values, self.path, item_id)
            yield item_id, values

    def iterate_shapes(self, name: str) -> Iterator[tuple[str, tuple[int, ...] | None]]:
        """Yield (id, shape) as `iterate_datasets` yields the datasets, without reading them."""
        return self._read_from_items(name, lambda node, item_id: node.shape)

    def _read_from_items(self, name: str, read: Callable[..., _Read],
                         ids: Sequence[str] | None = None) -> Iterator[tuple[str, _Read | None]]:
        """Yield (id, `read(node, item_id=id)`) for the dataset `name` of every item that did not fail."""
        with translate_read_errors(self.path):
            file = self.file
            items = h5g.open(file.id, b"items")
        for item_id in self.ids if ids is None else ids:
            if item_id not in self.errors:
                with translate_read_errors(self.path, item_id):
                    node = _open_dataset(items, group_name(item_id).encode(), name.encode())
                    result = None if node is None else read(node, item_id=item_id)
                yield item_id, result

    def _check_item(self, item_id: str, datasets: dict[str, np.ndarray], attrs: dict[str, Any]) -> None:
        kind = KINDS[self.kind]
        for array in kind.item:
            _check_array(array, datasets.get(array.name), self.path, item_id)
        missing = [name for name in kind.item_attrs if name not in attrs]
        if missing:
            raise BadData(f"lacks the attribute {missing[0]}", REMAKE, where=format_location(self.path, item_id))
        size, covers = (attrs.get("height", 1), attrs.get("width", 1)), np.asarray(attrs.get("covers", _ONE_PIXEL))
        is_covers_valid = covers.shape == (2,) and covers.dtype.kind in "iu" and covers.min() > 0
        if not (is_covers_valid and all(type(side) is int and side > 0 for side in size)):
            raise BadData(f"its image of {size[0]}x{size[1]} pixels or its map over {covers} is invalid", REMAKE,
                          where=format_location(self.path, item_id))
        if size[0] * size[1] > self.max_pixels:
            raise self._build_size_error("image", size, item_id)

    def items(self) -> Iterator[Item]:
        """Yield the items in the order of `ids`."""
        for item_id in self.ids:
            yield self.item(item_id)

    def release(self) -> None:
        """Drop the file, which closes once no reader uses it; a later read opens it again."""
        self._files.pop(os.getpid(), None)

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        file = self._files.pop(os.getpid(), None)
        if file is not None:
            file.close()

    def __reduce__(self) -> tuple[type[Shard], tuple[Path]]:
        return Shard, (self.path,)


def _open_dataset(items: h5g.GroupID, group: bytes, name: bytes) -> h5d.DatasetID | None:
    """Return a dataset of an item's group; None if the group has none of this name."""
    try:
        return h5d.open(items, group + b"/" + name)
    except KeyError:
        item_group = h5g.open(items, group)  # kept in a variable, because `links` does not keep it open
        if item_group.links.exists(name):
            raise
        return None


def _check_array(array: Array, values: np.ndarray | None, path: Path, item: str = "") -> None:
    if values is None:
        if array.required:
            raise BadData(f"lacks the dataset {array.name}", REMAKE, where=format_location(path, item))
        return
    # h5py returns strings of variable length, which another writer may have used, as objects.
    dtype = "S" if values.dtype.kind in "SO" else values.dtype.str
    if dtype not in array.dtypes or values.ndim != array.ndim:
        raise BadData(f"{array.name} is {values.dtype.str} with {values.ndim} axes, not "
                      f"{' or '.join(array.dtypes)} with {array.ndim}", REMAKE,
                      where=format_location(path, item))
    if item and values.ndim > 1 and not array.can_be_empty and not all(values.shape[-2:]):
        raise BadData(f"its {array.name} has {values.shape[-2]}x{values.shape[-1]} pixels", REMAKE,
                      where=format_location(path, item))


def _to_plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _parse_version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))
