"""Makes a shard: built as an HDF5 image in RAM, checked, written as plain bytes, renamed.

h5py tells nothing of a full disk when it writes chunked datasets, and crashes at exit (measured); plain
bytes give an ordinary error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stages.shards.digest import digest_of
from stages.shards.disk import replace_file
from stages.shards.items import Item, group_name
from stages.shards.schema import FORMAT, FORMAT_VERSION, KINDS

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
        _fill(file, contents)
        digest = digest_of(file)
        put_attribute(file, "digest", digest)
        file.flush()
        return file.id.get_file_image(), digest


def _fill(file: h5py.File, contents: Contents) -> None:
    ids = contents.ids if contents.ids is not None else [item.id for item in contents.items]
    refused = [item for item in contents.items if item.error is not None]
    put_dataset(file, "classes", strings(contents.classes))
    put_dataset(file, "ids", strings(ids))
    put_dataset(file, "error_ids", strings([item.id for item in refused]))
    put_dataset(file, "error_messages", strings([item.error or "" for item in refused]))
    for name, array in sorted(contents.root_datasets.items()):
        put_dataset(file, name, array)
    attributes = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "kind": contents.kind,
        "part": contents.part, "parts": contents.parts,
        "provenance": json.dumps(list(contents.provenance), sort_keys=True, ensure_ascii=False),
        "index_digest": contents.index_digest, "index_path": contents.index_path, **contents.root_attrs,
    }
    for name, value in sorted(attributes.items()):
        put_attribute(file, name, value)
    if KINDS[contents.kind].item:
        _put_items(file.create_group("items"), contents.items)


def _put_items(items: h5py.Group, contents: Sequence[Item]) -> None:
    for item in contents:
        if item.error is None:
            group = items.create_group(group_name(item.id))
            for name, array in sorted(item.datasets.items()):
                put_dataset(group, name, array)
            for name, value in sorted(item.attrs.items()):
                put_attribute(group, name, value)


def put_dataset(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Add a dataset the way the format wants it: chunked, shuffle + gzip, with a Fletcher-32 sum."""
    whole = array.size > 0 and array.nbytes <= _LARGE
    if array.dtype.kind == "S":
        array = array.astype(h5py.string_dtype("utf-8", array.dtype.itemsize))
    group.create_dataset(name, data=array, chunks=array.shape if whole else True,
                         shuffle=True, compression="gzip", compression_opts=4, fletcher32=True)


def put_attribute(owner: h5py.Group, name: str, value: Any) -> None:
    """Add an attribute: text as a fixed-length string (variable-length ones have no checksum), else as it is."""
    if isinstance(value, str):
        data = value.encode()
        owner.attrs.create(name, data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))
    else:
        owner.attrs.create(name, value)


def strings(texts: Sequence[str]) -> np.ndarray:
    """Return texts as an array of fixed-length UTF-8 strings."""
    data = [text.encode() for text in texts]
    return np.array(data, dtype=f"S{max([1, *map(len, data)])}")
