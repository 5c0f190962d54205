"""Reads values from an HDF5 file, through h5py's low-level calls: its objects took two to three times as long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from h5py import h5a, h5d, h5g, h5i, h5s, h5t

# zlib packs no more than 1,032 bytes into one: what says that it holds more would only be filled up.
MOST_PACKED = 1100
ALWAYS_READ = 1 << 20

Owner: TypeAlias = h5g.GroupID | h5d.DatasetID


def value_of(node: h5d.DatasetID | h5a.AttrID) -> np.ndarray:
    """Return all of a dataset or an attribute; text as bytes, of fixed length where the file has it so.

    Raises ValueError for one that says that it is larger than what the file holds of it can be.
    """
    dtype, kind = _in_memory(node.get_type().encode())
    # A shape of None is HDF5's null space, which another writer may have used.
    shape = node.shape
    size = 0 if shape is None else math.prod(shape) * dtype.itemsize
    if size > ALWAYS_READ and size - ALWAYS_READ > MOST_PACKED * node.get_storage_size():
        raise ValueError(f"{h5i.get_name(node).decode()} says that it has {size} bytes, of which the file can't hold "
                         f"more than {MOST_PACKED * node.get_storage_size() + ALWAYS_READ}")
    found = np.empty((0,) if shape is None else shape, dtype)
    if isinstance(node, h5a.AttrID):
        node.read(found, kind)
    elif found.size:
        node.read(h5s.ALL, h5s.ALL, found, kind)
    return found


@lru_cache(maxsize=1024)
def _in_memory(encoded: bytes) -> tuple[np.dtype, h5t.TypeID]:
    """Return the dtype, and the type by which it is read, of a type of the file; made anew they took a fifth."""
    dtype = h5t.decode(encoded).dtype
    return dtype, h5t.py_create(dtype)


def attributes_of(owner: Owner) -> Iterator[tuple[bytes, h5a.AttrID]]:
    """Yield the name of every attribute, and the attribute."""
    for place in range(h5a.get_num_attrs(owner)):
        attribute = h5a.open(owner, index=place)
        yield attribute.name, attribute


def members_of(group: h5g.GroupID) -> list[bytes]:
    """Return the names of a group's members, sorted."""
    names: list[bytes] = []
    group.links.iterate(names.append)
    return names
