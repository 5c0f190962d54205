"""Makes a shard: built as an HDF5 image in RAM, written as plain bytes, renamed.

h5py tells nothing of a full disk when it writes chunked datasets, and crashes at exit (measured); plain
bytes give an ordinary error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from stages.errors import BadData
from stages.shards.digest import Entry, digest_over, entry_of
from stages.shards.disk import replace_file
from stages.shards.items import Item, group_name
from stages.shards.schema import FORMAT, FORMAT_VERSION, KINDS
from stages.shards.values import Owner, attributes_of

_LARGE = 16 << 20  # a chunk is a whole map; beyond this HDF5 chooses


@dataclass(frozen=True)
class Contents:
    """Everything that a shard says; `items` in the order of `ids`, refused images with their `error`."""

    kind: str
    classes: tuple[str, ...]
    items: Sequence[Item] = ()
    part: int = 0
    parts: int = 1
    provenance: Sequence[Mapping[str, Any]] = ()
    index_digest: str = ""
    index_path: str = ""
    root_attrs: Mapping[str, Any] = field(default_factory=dict)
    root_datasets: Mapping[str, np.ndarray] = field(default_factory=dict)
    ids: Sequence[str] | None = None


def write_shard(path: Path, contents: Contents) -> str:
    """Write `contents` to `path`, whole or not at all, and return its digest. Raises CannotCreate, IoFailed."""
    data, digest = shard_bytes(contents)
    replace_file(path, data)
    return digest


def shard_bytes(contents: Contents) -> tuple[bytes, str]:
    """Return the shard's bytes (equal contents, equal bytes) and its digest."""
    size = sum(array.nbytes for item in contents.items for array in item.datasets.values())
    block = max(1 << 16, min(size, 64 << 20))
    with h5py.File("shard", "w", driver="core", backing_store=False, block_size=block,
                   libver=("v110", "v110")) as file:
        image = _Image(file)
        _fill(image, contents)
        # HDF5 numbers attributes when they are listed, and keeps the numbers where there are more than eight: equal
        # contents are equal bytes only if that is always done, or never. Here it always was.
        list(attributes_of(image.root))
        # Of what was handed in, not of what HDF5 gives back: to read that took longer than to write it.
        digest = digest_over(image.entries)
        image.attribute(image.root, b"", "digest", digest)
        file.flush()
        return file.id.get_file_image(), digest


def _fill(image: _Image, contents: Contents) -> None:
    ids = contents.ids if contents.ids is not None else [item.id for item in contents.items]
    refused = [item for item in contents.items if item.error is not None]
    datasets = {
        "classes": strings(contents.classes), "ids": strings(ids),
        "error_ids": strings([item.id for item in refused]),
        "error_messages": strings([item.error or "" for item in refused]),
        **dict(sorted(contents.root_datasets.items())),
    }
    attributes = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "kind": contents.kind,
        "part": contents.part, "parts": contents.parts,
        "provenance": json.dumps(list(contents.provenance), sort_keys=True, ensure_ascii=False),
        "index_digest": contents.index_digest, "index_path": contents.index_path, **contents.root_attrs,
    }
    image.put(image.root, b"", datasets, attributes)
    if KINDS[contents.kind].item:
        items = image.group(image.root, b"items")
        for item in contents.items:
            if item.error is None:
                name = group_name(item.id).encode()
                image.put(image.group(items, name), b"items/" + name, dict(sorted(item.datasets.items())), item.attrs)


class _Image:
    """An HDF5 file that groups, datasets and attributes are added to; `entries` collects them for the digest.

    The low-level calls of h5py, with types, sizes and property lists made once for all that are alike: an item
    of an index of tags took 0.25 ms without and takes 0.12 ms with them, for the same bytes.
    """

    def __init__(self, file: h5py.File) -> None:
        self.root = h5g.open(file.id, b"/")
        self.entries: list[Entry] = []
        self._group_properties = h5p.create(h5p.GROUP_CREATE)
        self._group_properties.set_obj_track_times(False)
        self._utf8_name = h5p.create(h5p.LINK_CREATE)
        self._utf8_name.set_char_encoding(h5t.CSET_UTF8)

    def group(self, parent: h5g.GroupID, name: bytes) -> h5g.GroupID:
        """Add a group; a name that is not ASCII is marked as UTF-8."""
        return h5g.create(parent, name, None if name.isascii() else self._utf8_name, self._group_properties)

    def put(self, group: h5g.GroupID, path: bytes, datasets: Mapping[str, np.ndarray],
            attributes: Mapping[str, Any]) -> None:
        """Add datasets in the order given, then attributes in the order of their names, to the group at `path`."""
        for name, array in datasets.items():
            self.dataset(group, path, name, array)
        for name, value in sorted(attributes.items()):
            self.attribute(group, path, name, value)

    def dataset(self, group: h5g.GroupID, path: bytes, name: str, array: np.ndarray) -> None:
        """Add a dataset the way the format wants it: chunked, shuffle + gzip, with a Fletcher-32 sum."""
        array, encoded = np.asarray(array, order="C"), name.encode()
        self.entries.append(entry_of(path + b"/" + encoded if path else encoded, array))
        kind = _type(array.dtype)
        made = h5d.create(group, encoded, kind, _space(array.shape), dcpl=_properties(array.shape, array.dtype))
        made.write(h5s.ALL, h5s.ALL, array, mtype=kind)

    def attribute(self, owner: Owner, path: bytes, name: str, value: Any) -> None:
        """Add an attribute: text as a fixed-length string (variable-length ones have no checksum), else as it is."""
        array, encoded = strings([value])[0] if isinstance(value, str) else value, name.encode()
        array = np.asarray(array)
        self.entries.append(entry_of(path + b"@" + encoded, array))
        kind = _type(array.dtype)
        h5a.create(owner, encoded, kind, _space(array.shape)).write(array, mtype=kind)


@lru_cache(maxsize=1024)
def _type(dtype: np.dtype) -> h5t.TypeID:
    """Return the HDF5 type of a dtype; text is UTF-8 of fixed length."""
    text = dtype.kind == "S"
    return h5t.py_create(h5py.string_dtype("utf-8", dtype.itemsize) if text else dtype, logical=True)


@lru_cache(maxsize=1024)
def _space(shape: tuple[int, ...]) -> h5s.SpaceID:
    return h5s.create_simple(shape)


@lru_cache(maxsize=1024)
def _properties(shape: tuple[int, ...], dtype: np.dtype) -> h5p.PropDCID:
    """Return how a dataset is stored: as one chunk, where it is empty or very large in those that h5py chooses."""
    size = math.prod(shape)
    chunks = shape if 0 < size * dtype.itemsize <= _LARGE else _chosen_chunks(shape, dtype)
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(chunks)
    properties.set_shuffle()
    properties.set_deflate(4)
    properties.set_fletcher32()
    properties.set_obj_track_times(False)
    return properties


def _chosen_chunks(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """Return the chunks that h5py chooses, by its public way of asking: a dataset in a file that is never kept."""
    with h5py.File("scratch", "w", driver="core", backing_store=False) as file:
        return file.create_dataset("scratch", shape, dtype, chunks=True).chunks


def strings(texts: Sequence[str]) -> np.ndarray:
    """Return texts as an array of fixed-length UTF-8 strings.

    Raises BadData for a name of a file or folder that is no UTF-8, which Python reads as lone surrogates.
    """
    try:
        data = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise BadData(f"{error.object[:80]!r} is not valid Unicode, as all text of a shard is", "rename it") from None
    return np.array(data, dtype=f"S{max([1, *map(len, data)])}")
