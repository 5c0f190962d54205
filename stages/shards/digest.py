"""The digest of a shard: sha256 over everything it says, independent of how HDF5 laid it out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import h5py
import numpy as np
from h5py import h5g, h5o

from stages.shards.values import Owner, attributes_of, members_of, value_of

Entry = tuple[bytes, str, tuple[int, ...], np.ndarray]


def digest_of(file: h5py.File) -> str:
    """Return the digest of all that is in `file`, as it is read."""
    return digest_over(_entries(h5o.open(file.id, b"/"), b""))


def digest_over(entries: Iterable[Entry]) -> str:
    """Return the hex sha256 over the sorted (path, dtype, shape, little-endian bytes) of a shard.

    Every dataset and every attribute counts, but for the root's `digest`. A dataset's path is as HDF5 gives
    it without the leading '/', an attribute's is its owner's path, '@' and its name. Each entry is hashed as
    path, NUL, dtype (numpy's little-endian spelling), NUL, sizes joined by ',', NUL, bytes.
    """
    total = hashlib.sha256()
    for path, dtype, shape, data in sorted(entries, key=lambda entry: entry[0]):
        total.update(path + f"\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        total.update(data.data)
    return total.hexdigest()


def entry_of(path: bytes, value: np.ndarray) -> Entry:
    """Return what the digest takes of one dataset or attribute."""
    plain = np.dtype(f"S{value.dtype.itemsize}") if value.dtype.kind == "S" else value.dtype.newbyteorder("<")
    return path, plain.str, value.shape, np.ascontiguousarray(value, dtype=plain)


def _entries(group: h5g.GroupID, path: bytes) -> Iterator[Entry]:
    yield from _attributes(group, path)
    for name in members_of(group):
        child, place = h5o.open(group, name), path + b"/" + name if path else name
        if isinstance(child, h5g.GroupID):
            yield from _entries(child, place)
        else:
            yield from _attributes(child, place)
            yield entry_of(place, value_of(child))


def _attributes(owner: Owner, path: bytes) -> Iterator[Entry]:
    for name, attribute in attributes_of(owner):
        if path or name != b"digest":
            yield entry_of(path + b"@" + name, value_of(attribute))
