"""Computes the digest of a shard: a sha256 over all its contents, independent of how HDF5 stores them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import h5py
import numpy as np
from h5py import h5a, h5g, h5o

from stages.shards.values import AttributeOwner, list_attributes, list_members, read_value

DigestEntry = tuple[bytes, str, tuple[int, ...], np.ndarray]


def compute_digest(file: h5py.File, values: Mapping[bytes, np.ndarray] | None = None) -> str:
    """Return the digest of the contents of an open shard; `values` by path have been read from it already."""
    return hash_entries(_iterate_entries(h5o.open(file.id, b"/"), b"", values or {}))


def hash_entries(entries: Iterable[DigestEntry]) -> str:
    """Return the hex sha256 over the sorted (path, dtype, shape, little-endian bytes) of a shard.

    Every dataset and every attribute is included, except the root's `digest`. The path of a dataset is its HDF5 path
    without the leading '/'; the path of an attribute is that of its owner, '@' and its name. Each entry is hashed as
    path, NUL, dtype (numpy's little-endian spelling), NUL, sizes joined by ',', NUL, bytes.
    """
    total = hashlib.sha256()
    for path, dtype, shape, data in sorted(entries, key=lambda entry: entry[0]):
        total.update(path + f"\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        total.update(data.data)
    return total.hexdigest()


def build_digest_entry(path: bytes, value: np.ndarray) -> DigestEntry:
    """Return the entry of one dataset or attribute that `hash_entries` hashes."""
    dtype = np.dtype(f"S{value.dtype.itemsize}") if value.dtype.kind == "S" else value.dtype.newbyteorder("<")
    return path, dtype.str, value.shape, np.ascontiguousarray(value, dtype=dtype)


def _iterate_entries(group: h5g.GroupID, path: bytes, values: Mapping[bytes, np.ndarray]) -> Iterator[DigestEntry]:
    yield from _iterate_attribute_entries(group, path, values)
    for name in list_members(group):
        child, child_path = h5o.open(group, name), path + b"/" + name if path else name
        if isinstance(child, h5g.GroupID):
            yield from _iterate_entries(child, child_path, values)
        else:
            yield from _iterate_attribute_entries(child, child_path, values)
            value = values.get(child_path)
            yield build_digest_entry(child_path, read_value(child) if value is None else value)


def _iterate_attribute_entries(owner: AttributeOwner, path: bytes,
                               values: Mapping[bytes, np.ndarray]) -> Iterator[DigestEntry]:
    for name in list_attributes(owner):
        if path or name != b"digest":
            value = values.get(path + b"@" + name)
            yield build_digest_entry(path + b"@" + name,
                                     read_value(h5a.open(owner, name)) if value is None else value)
