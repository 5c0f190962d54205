"""Writes a shard: builds it as an HDF5 image in memory, writes that as plain bytes, and renames the file.

When the disk is full, h5py reports no error for chunked datasets and crashes at exit (measured); writing plain
bytes raises an ordinary error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from stages.errors import BadData
from stages.shards.digest import DigestEntry, build_digest_entry, hash_entries
from stages.shards.disk import replace_file
from stages.shards.image_records import IMAGE_RECORDS, IN_TRAINING, applies_exif, hash_image_records
from stages.shards.items import Item, group_name
from stages.shards.reader import Shard
from stages.shards.schema import FORMAT, FORMAT_VERSION, KINDS
from stages.shards.values import AttributeOwner, iterate_attributes

_MAX_CHUNK_BYTES = 16 << 20  # one chunk per dataset; for larger datasets h5py chooses the chunks


@dataclass(frozen=True)
class ShardContents:
    """All contents of a shard; `items` in the order of `ids`, failed images with their `error`.

    `image_records` (N, 5) int64 identify the images, see `build_image_records`; `in_training` (N,) uint8 marks those
    that the network of the shard was trained on. Each is None if it is not known.
    """

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
    image_records: np.ndarray | None = None
    in_training: np.ndarray | None = None


def write_shard(path: Path, contents: ShardContents) -> str:
    """Write `contents` to `path` atomically and return the digest. Raises CannotCreate, IoFailed."""
    data, digest = encode_shard(contents)
    replace_file(path, data)
    return digest


def has_same_contents(shard: Shard, contents: ShardContents) -> bool:
    """Return whether a shard has these contents; one of format 1.0 is compared without what 1.1 added."""
    version = str(shard.attribute("format_version"))
    if version == "1.0":
        contents = replace(contents, image_records=None, in_training=None)
    return encode_shard(contents, format_version=version)[1] == shard.digest


def encode_shard(contents: ShardContents, *, format_version: str = FORMAT_VERSION) -> tuple[bytes, str]:
    """Return the bytes of a shard (equal for equal contents) and its digest."""
    size = sum(array.nbytes for item in contents.items for array in item.datasets.values())
    block = max(1 << 16, min(size, 64 << 20))
    with h5py.File("shard", "w", driver="core", backing_store=False, block_size=block,
                   libver=("v110", "v110")) as file:
        builder = _ShardBuilder(file)
        _add_contents(builder, contents, format_version)
        # HDF5 numbers attributes when they are listed, and stores the numbers if there are more than eight. Equal
        # contents give equal bytes only if that is always done or never; existing shards were written with it.
        list(iterate_attributes(builder.root))
        # Hashed from `contents`, not read back from HDF5, which took longer than writing.
        digest = hash_entries(builder.entries)
        builder.add_attribute(builder.root, b"", "digest", digest)
        file.flush()
        return file.id.get_file_image(), digest


def _add_contents(builder: _ShardBuilder, contents: ShardContents, format_version: str) -> None:
    ids = contents.ids if contents.ids is not None else [item.id for item in contents.items]
    failed = [item for item in contents.items if item.error is not None]
    datasets = {
        "classes": encode_strings(contents.classes), "ids": encode_strings(ids),
        "error_ids": encode_strings([item.id for item in failed]),
        "error_messages": encode_strings([item.error or "" for item in failed]),
        **dict(sorted(contents.root_datasets.items())), **_collect_image_datasets(contents),
    }
    attributes = {
        "format": FORMAT, "format_version": format_version, "kind": contents.kind,
        "part": contents.part, "parts": contents.parts,
        "provenance": json.dumps(list(contents.provenance), sort_keys=True, ensure_ascii=False),
        "index_digest": contents.index_digest, "index_path": contents.index_path, **contents.root_attrs,
    }
    if contents.image_records is not None:
        attributes["images_digest"] = hash_image_records(ids, contents.image_records,
                                                         apply_exif=applies_exif(contents.provenance))
    builder.add_members(builder.root, b"", datasets, attributes)
    if KINDS[contents.kind].item:
        items = builder.add_group(builder.root, b"items")
        for item in contents.items:
            if item.error is None:
                name = group_name(item.id).encode()
                builder.add_members(builder.add_group(items, name), b"items/" + name,
                                    dict(sorted(item.datasets.items())), item.attrs)


def _collect_image_datasets(contents: ShardContents) -> dict[str, np.ndarray]:
    datasets = {IMAGE_RECORDS: contents.image_records, IN_TRAINING: contents.in_training}
    return {name: array for name, array in datasets.items() if array is not None}


class _ShardBuilder:
    """Adds groups, datasets and attributes to an HDF5 file, and collects `entries` for the digest.

    Uses the low-level API of h5py and caches types, sizes and property lists: writing an item of an index of tags took
    0.25 ms without this and takes 0.12 ms with it, for the same bytes.
    """

    def __init__(self, file: h5py.File) -> None:
        self.root = h5g.open(file.id, b"/")
        self.entries: list[DigestEntry] = []
        self._group_properties = h5p.create(h5p.GROUP_CREATE)
        self._group_properties.set_obj_track_times(False)
        self._utf8_name = h5p.create(h5p.LINK_CREATE)
        self._utf8_name.set_char_encoding(h5t.CSET_UTF8)

    def add_group(self, parent: h5g.GroupID, name: bytes) -> h5g.GroupID:
        """Add a group; a name that is not ASCII is marked as UTF-8."""
        return h5g.create(parent, name, None if name.isascii() else self._utf8_name, self._group_properties)

    def add_members(self, group: h5g.GroupID, path: bytes, datasets: Mapping[str, np.ndarray],
                    attributes: Mapping[str, Any]) -> None:
        """Add datasets in the order given, then attributes in the order of their names, to the group at `path`."""
        for name, array in datasets.items():
            self.add_dataset(group, path, name, array)
        for name, value in sorted(attributes.items()):
            self.add_attribute(group, path, name, value)

    def add_dataset(self, group: h5g.GroupID, path: bytes, name: str, array: np.ndarray) -> None:
        """Add a dataset as the format requires: chunked, shuffle + gzip, with a Fletcher-32 checksum."""
        array, encoded = np.asarray(array, order="C"), name.encode()
        self.entries.append(build_digest_entry(path + b"/" + encoded if path else encoded, array))
        hdf_type = _build_type(array.dtype)
        dataset = h5d.create(group, encoded, hdf_type, _build_space(array.shape),
                             dcpl=_build_storage_properties(array.shape, array.dtype))
        dataset.write(h5s.ALL, h5s.ALL, array, mtype=hdf_type)

    def add_attribute(self, owner: AttributeOwner, path: bytes, name: str, value: Any) -> None:
        """Add an attribute; text as a fixed-length string, because variable-length strings have no checksum."""
        array, encoded = encode_strings([value])[0] if isinstance(value, str) else value, name.encode()
        array = np.asarray(array)
        self.entries.append(build_digest_entry(path + b"@" + encoded, array))
        hdf_type = _build_type(array.dtype)
        h5a.create(owner, encoded, hdf_type, _build_space(array.shape)).write(array, mtype=hdf_type)


@lru_cache(maxsize=1024)
def _build_type(dtype: np.dtype) -> h5t.TypeID:
    """Return the HDF5 type of a dtype; text is UTF-8 of fixed length."""
    is_text = dtype.kind == "S"
    return h5t.py_create(h5py.string_dtype("utf-8", dtype.itemsize) if is_text else dtype, logical=True)


@lru_cache(maxsize=1024)
def _build_space(shape: tuple[int, ...]) -> h5s.SpaceID:
    return h5s.create_simple(shape)


@lru_cache(maxsize=1024)
def _build_storage_properties(shape: tuple[int, ...], dtype: np.dtype) -> h5p.PropDCID:
    """Return how a dataset is stored: as one chunk, or if it is empty or very large in chunks that h5py chooses."""
    size = math.prod(shape)
    chunks = shape if 0 < size * dtype.itemsize <= _MAX_CHUNK_BYTES else _choose_chunks(shape, dtype)
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(chunks)
    properties.set_shuffle()
    properties.set_deflate(4)
    properties.set_fletcher32()
    properties.set_obj_track_times(False)
    return properties


def _choose_chunks(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """Return the chunk shape that h5py chooses; its public API shows it only for a dataset, here in a scratch file."""
    with h5py.File("scratch", "w", driver="core", backing_store=False) as file:
        return file.create_dataset("scratch", shape, dtype, chunks=True).chunks


def encode_strings(texts: Sequence[str]) -> np.ndarray:
    """Return texts as an array of fixed-length UTF-8 strings.

    Raises BadData for the name of a file or folder that is not valid UTF-8, which Python reads as lone surrogates.
    """
    try:
        data = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise BadData(f"{error.object[:80]!r} is not valid Unicode, as text in a shard must be",
                      "Rename the file or folder") from None
    return np.array(data, dtype=f"S{max([1, *map(len, data)])}")
