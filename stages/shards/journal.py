"""The journal of an unfinished shard: an append-only, locked file of CRC-framed records, from which a command resumes.

An HDF5 file that is appended to in place loses committed items in 1 to 4 % of kills (measured); a framed
journal lost none in 300. The first frame holds the request; a rerun resumes from the longest valid prefix.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.errors import BadData, CannotCreate, explain_write_error
from stages.shards.disk import lock_file, write_all
from stages.shards.items import Item, ItemStore, pack_record, unpack_record
from stages.shards.request import describe_differences

_MAGIC = b"WSJ1"
_HEAD = struct.Struct("<4sQI")  # magic, length of the payload, CRC-32 of length and payload


def unfinished_path(path: Path) -> Path:
    """Return the path of the unfinished work on `path`: the journal of a shard, or the checkpoint of a training."""
    return path.with_name(path.name + ".part")


def encode_frame(payload: bytes) -> bytes:
    """Return one frame: magic, length, CRC-32, payload."""
    return _HEAD.pack(_MAGIC, len(payload), _crc(payload)) + payload


def _crc(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<Q", len(payload))))


def decode_frames(data: bytes) -> tuple[list[bytes], int]:
    """Return the payloads of the longest valid prefix of `data`, and that prefix's length."""
    payloads, position = [], 0
    while position + _HEAD.size <= len(data):
        magic, length, crc = _HEAD.unpack_from(data, position)
        end = position + _HEAD.size + length
        payload = data[position + _HEAD.size:end]
        if magic != _MAGIC or end > len(data) or _crc(payload) != crc:
            break
        payloads.append(payload)
        position = end
    return payloads, position


def read_journal_progress(path: Path) -> tuple[dict[str, Any], int]:
    """Return the request of a journal and its number of whole frames of images, without reading the images.

    A command may be appending to it: a torn last frame is left out. The request is {} where the journal has none yet.
    Raises FileNotFoundError.
    """
    request: dict[str, Any] = {}
    num_frames, position, size = -1, 0, path.stat().st_size
    with path.open("rb") as stream:
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            magic, length, _ = _HEAD.unpack(head)
            position += _HEAD.size + length
            if magic != _MAGIC or position > size:
                break
            if num_frames < 0:
                request = _parse_request(stream.read(length))
            stream.seek(position)
            num_frames += 1
    return request, max(0, num_frames)


def _parse_request(payload: bytes) -> dict[str, Any]:
    try:
        request = json.loads(payload)
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}


def recover_items(data: bytes, request: dict[str, Any], path: Path, *,
                  discard: bool = False) -> tuple[ItemStore, int]:
    """Return the items in a journal by position, and the number of its valid bytes; 0 if the work starts anew.

    Raises CannotCreate when the items were made with different settings (listing them), BadData when the file is not
    a journal of wsss; with `discard` both are dropped and the work starts anew.
    """
    payloads, end = decode_frames(data)
    items = ItemStore()
    try:
        recorded = json.loads(payloads[0]) if payloads else {}
        for payload in payloads[1:]:
            items.add(*unpack_record(payload), payload)
    except Exception:  # whole frames of another program, for which numpy may raise anything
        if not discard:
            raise BadData("is not a journal of wsss", "Remove it, or choose another --output",
                          where=str(path)) from None
        return ItemStore(), 0
    changed = describe_differences(recorded, request) if payloads else ""
    if changed and not discard and items:
        raise CannotCreate(f"holds unfinished work with different settings ({changed})",
                           "Use those settings to resume it, --force to discard it, or choose another --output",
                           where=str(path))
    return (ItemStore(), 0) if changed else (items, end)


class Journal:
    """The locked journal of one shard. `items` maps the positions of finished images to their items."""

    def __init__(self, path: Path, request: dict[str, Any], *, discard: bool = False) -> None:
        """Open and lock `path`, and recover the items that an earlier run of the same request left.

        Raises Stopped when another process holds it, CannotCreate when it holds items made with different settings
        and `discard` is off (listing the settings), IoFailed when it cannot be read or written.
        """
        self.path = path
        self.items = ItemStore()
        self._descriptor = lock_file(path, path)
        try:
            self._recover(request, discard)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _recover(self, request: dict[str, Any], discard: bool) -> None:
        with open(os.dup(self._descriptor), "rb") as stream:
            items, end = recover_items(stream.read(), request, self.path, discard=discard)
        try:
            os.ftruncate(self._descriptor, end)
            os.lseek(self._descriptor, end, os.SEEK_SET)
            if not end:
                write_all(self._descriptor, encode_frame(json.dumps(request, sort_keys=True).encode()))
        except OSError as error:
            raise explain_write_error(error, self.path) from None
        self.items = items

    def append(self, items: Iterable[tuple[int, Item]]) -> None:
        """Append a batch of (position, item) pairs in one write. Raises IoFailed; the valid prefix stays."""
        batch = ItemStore()
        frames = []
        for position, item in items:
            record = pack_record(position, item)
            batch.add(position, item, record)
            frames.append(encode_frame(record))
        try:
            write_all(self._descriptor, b"".join(frames))
        except OSError as error:
            raise explain_write_error(error, self.path) from None
        self.items.copy_from(batch, batch)

    def sync(self) -> None:
        """Sync the appended items to disk. Raises IoFailed."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise explain_write_error(error, self.path) from None

    def close(self, *, remove: bool = False) -> None:
        """Release the lock; with `remove`, for a finished shard, delete the journal."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
