"""Image records: what identifies the images of a shard (checksum, bytes and size of each file), and their tags.

Every shard made from an index carries them, so that it belongs to images rather than to one index file.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stages.errors import BadData
from stages.shards.items import Item
from stages.shards.read_errors import translate_read_errors
from stages.shards.reader import Shard

IMAGE_RECORDS = "image_records"
IN_TRAINING = "in_training"
RECORD_COLUMNS = ("crc32", "bytes", "height", "width", "labels")
_UNKNOWN = -1
_NUM_IDENTITY_COLUMNS = 4  # the tags do not identify an image
_UNKNOWN_RECORD = (_UNKNOWN,) * len(RECORD_COLUMNS)


def build_image_records(items: Iterable[Item]) -> np.ndarray:
    """Return the records (N, 5) int64 of the items of an index: crc32, bytes, height, width, CRC-32 of the labels.

    A value that the index does not have, such as the checksum of an image that was only listed, is -1.
    """
    records = [_build_record(item) if item.error is None else _UNKNOWN_RECORD for item in items]
    return np.array(records, dtype=np.int64).reshape(-1, len(RECORD_COLUMNS))


def _build_record(item: Item) -> tuple[int, ...]:
    labels = item.datasets.get("labels")
    checksum = _UNKNOWN if labels is None else zlib.crc32(np.asarray(labels, dtype="<u2").tobytes())
    return (*(int(item.attrs.get(name, _UNKNOWN)) for name in RECORD_COLUMNS[:_NUM_IDENTITY_COLUMNS]), checksum)


def has_root_dataset(shard: Shard, name: str) -> bool:
    """Return whether a shard has a root dataset that not every shard has."""
    with translate_read_errors(shard.path):
        file = shard.file
        return name in file


def read_in_training(shard: Shard) -> np.ndarray | None:
    """Return (N,) uint8, 1 for the images that the network of a shard was trained on; None if that is not known."""
    return shard.read_root(IN_TRAINING) if has_root_dataset(shard, IN_TRAINING) else None


def read_image_records(shard: Shard) -> np.ndarray | None:
    """Return the records (N, 5) of a shard in the order of its ids; None for format 1.0, except for an index.

    Raises BadData if there is not one record per id.
    """
    if not has_root_dataset(shard, IMAGE_RECORDS):
        if shard.kind != "index":
            return None
        return build_image_records(shard.item(item_id, exclude=("image", "mask", "captions")) for item_id in shard.ids)
    records = shard.read_root(IMAGE_RECORDS)
    if records.shape != (len(shard.ids), len(RECORD_COLUMNS)):
        raise BadData(f"its {IMAGE_RECORDS} have the shape {records.shape} for {len(shard.ids)} images",
                      "Make the shard again", where=str(shard.path))
    return records


def concatenate_rows(read_rows: Callable[[Shard], np.ndarray | None], shards: Sequence[Shard]) -> np.ndarray | None:
    """Return what `read_image_records` or `read_in_training` returns of all shards; None if one of them has none."""
    rows = [read_rows(shard) for shard in shards]
    known = [values for values in rows if values is not None]
    return np.concatenate(known) if len(known) == len(rows) else None


def select_image_records(source: Shard, index: Shard, positions: slice) -> np.ndarray:
    """Return the records of the images at some positions of `source`, which was made from `index`."""
    records = read_image_records(source)
    if records is not None:
        return records[positions]
    record_by_id = dict(zip(index.ids, read_image_records(index), strict=True))  # type: ignore[arg-type]
    selected = [record_by_id.get(item_id, _UNKNOWN_RECORD) for item_id in source.ids[positions]]
    return np.array(selected, dtype=np.int64).reshape(-1, len(RECORD_COLUMNS))


def applies_exif(provenance: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether images are read as their EXIF orientation says, according to a provenance."""
    configs = (entry.get("config") for entry in provenance)
    return any(isinstance(config, dict) and config.get("apply_exif") is True for config in configs)


def hash_image_records(ids: Sequence[str], records: np.ndarray, *, apply_exif: bool) -> str:
    """Return the `images_digest` of FORMAT.md: the sha256 over the ids and what identifies their images."""
    rows = [[item_id, *row] for item_id, row in zip(ids, records[:, :_NUM_IDENTITY_COLUMNS].tolist(), strict=True)]
    return hashlib.sha256(json.dumps([apply_exif, rows], separators=(",", ":")).encode()).hexdigest()


def check_image_records(shard: Shard) -> None:
    """Raise BadData if the records of a shard cannot be read, or do not match its `images_digest`."""
    has_records = has_root_dataset(shard, IMAGE_RECORDS)
    records = read_image_records(shard) if has_records else None
    digest = "" if records is None else hash_image_records(shard.ids, records,
                                                           apply_exif=applies_exif(shard.provenance))
    if digest != shard.images_digest:
        raise BadData("its image_records don't match its images_digest", "Make the shard again", where=str(shard.path))


def is_identified(record: np.ndarray) -> bool:
    """Return whether a record has the checksum of its image."""
    return bool(record[0] != _UNKNOWN)


def describe_image_difference(record: np.ndarray, other: np.ndarray) -> str:
    """Return in what the images of two records differ, as "1200 bytes instead of 1100"; empty if they are the same."""
    crc, num_bytes, height, width = (int(value) for value in record[:_NUM_IDENTITY_COLUMNS])
    other_crc, other_bytes, other_height, other_width = (int(value) for value in other[:_NUM_IDENTITY_COLUMNS])
    if (height, width) != (other_height, other_width):
        return f"{height} x {width} pixels instead of {other_height} x {other_width}"
    if num_bytes != other_bytes:
        return f"{num_bytes} bytes instead of {other_bytes}"
    if crc != other_crc:
        return "the same size, but other contents"
    return ""


def build_image_keys(records: np.ndarray) -> np.ndarray:
    """Return a key (n,) uint64 of each image that has a checksum: its CRC-32 and the last 32 bits of its size."""
    known = records[records[:, 0] != _UNKNOWN]
    return (known[:, 0].astype(np.uint64) << np.uint64(32)) | (known[:, 1].astype(np.uint64) & np.uint64(0xFFFFFFFF))


def group_equal_images(records: np.ndarray) -> np.ndarray:
    """Return a number for each image (N,), equal for those whose files have the same checksum and size."""
    positions: dict[tuple[int, ...], int] = {}
    keys = [tuple(record[:2].tolist()) if is_identified(record) else (position,)
            for position, record in enumerate(records)]
    return np.array([positions.setdefault(key, position) for position, key in enumerate(keys)], dtype=np.int64)


def mark_training_images(records: np.ndarray, training_keys: np.ndarray) -> np.ndarray:
    """Return (N,) uint8: 1 for images whose key is among those of a training, else 0."""
    marks = np.zeros(len(records), np.uint8)
    is_known = records[:, 0] != _UNKNOWN
    marks[is_known] = np.isin(build_image_keys(records), training_keys)
    return marks
