"""The digest of a shard: sha256 over everything it says, independent of how HDF5 laid it out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import h5py
import numpy as np

Entry = tuple[str, str, tuple[int, ...], bytes]


def digest_of(file: h5py.File) -> str:
    """Return the hex sha256 over the sorted (path, dtype, shape, little-endian bytes) of `file`.

    Every dataset and every attribute counts, but for the root's `digest`. A dataset's path is as HDF5 gives
    it without the leading '/', an attribute's is its owner's path, '@' and its name. Each entry is hashed as
    path, NUL, dtype (numpy's little-endian spelling), NUL, sizes joined by ',', NUL, bytes.
    """
    total = hashlib.sha256()
    for path, dtype, shape, data in sorted(_entries(file, ""), key=lambda entry: entry[0].encode()):
        total.update(f"{path}\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        total.update(data)
    return total.hexdigest()


def _entries(group: h5py.Group, path: str) -> Iterator[Entry]:
    yield from _attributes(group, path)
    for name in group:
        child, place = group[name], f"{path}/{name}" if path else name
        if isinstance(child, h5py.Group):
            yield from _entries(child, place)
        else:
            yield from _attributes(child, place)
            yield _entry(place, child[()], child.dtype, child.shape)


def _attributes(owner: h5py.Group | h5py.Dataset, path: str) -> Iterator[Entry]:
    for name in owner.attrs:
        if path or name != "digest":
            described = owner.attrs.get_id(name)
            yield _entry(f"{path}@{name}", owner.attrs[name], described.dtype, described.shape)


def _entry(path: str, value: object, dtype: np.dtype, shape: tuple[int, ...]) -> Entry:
    plain = np.dtype(f"S{dtype.itemsize}") if dtype.kind == "S" else dtype.newbyteorder("<")
    return path, plain.str, shape, np.asarray(value, dtype=plain).tobytes()
