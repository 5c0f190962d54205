"""The item of one image in a shard, its HDF5 group name and its journal record."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from stages.errors import BadData

MAX_PLAIN_BYTES = 4 << 20  # items with more bytes are compressed in journals and in memory


@dataclass(frozen=True)
class Item:
    """The data of one image in a shard; a failed image has an `error` instead of contents."""

    id: str
    datasets: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def group_name(item_id: str) -> str:
    """Return the HDF5 group name of an id: '/', '%' and the ids '.' and '..' are percent-encoded."""
    if item_id in (".", ".."):
        return item_id.replace(".", "%2E")
    return item_id.replace("%", "%25").replace("/", "%2F")


def parse_group_name(name: str) -> str:
    """Return the id of a group name: the inverse of `group_name`."""
    return name.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def validate_item_id(text: str, where: str = "") -> str:
    """Return `text` if it is a valid id (1 to 200 characters, no NUL, tab or line break); else raise BadData."""
    if not 1 <= len(text) <= 200 or any(character in text for character in "\0\n\r\t"):
        raise BadData(f"{text[:40]!r} is not a valid id", "Use 1 to 200 characters without tabs and line breaks",
                      where=where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadData(f"{text[:40]!r} is not valid Unicode", "Rename the file", where=where) from None
    return text


class ItemStore(Mapping[int, Item]):
    """Items by position. Large ones are stored compressed, so that a part of large photographs fits into memory."""

    def __init__(self) -> None:
        self._entries: dict[int, Item | bytes] = {}

    def add(self, position: int, item: Item, record: bytes | None = None) -> None:
        """Add an item; `record` is its journal record, if there is one already."""
        is_large = count_bytes(item) > MAX_PLAIN_BYTES
        self._entries[position] = (record or pack_record(position, item)) if is_large else item

    def copy_from(self, store: ItemStore, positions: Iterable[int]) -> None:
        """Add items of another store, without unpacking them."""
        self._entries.update((position, store._entries[position]) for position in positions)

    def __getitem__(self, position: int) -> Item:
        entry = self._entries[position]
        return unpack_record(entry)[1] if isinstance(entry, bytes) else entry

    def __contains__(self, position: object) -> bool:
        return position in self._entries

    def __iter__(self) -> Iterator[int]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class OrderedItems(Sequence[Item]):
    """The items of a store at positions 0 to n - 1, each changed by a function when it is read."""

    def __init__(self, store: ItemStore, change: Callable[[Item], Item] = lambda item: item) -> None:
        self._store, self._change = store, change

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, position: int) -> Item: ...

    @overload
    def __getitem__(self, position: slice) -> list[Item]: ...

    def __getitem__(self, position: int | slice) -> Item | list[Item]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self._change(self._store[position])


def count_bytes(item: Item) -> int:
    """Return the number of bytes of an item's arrays."""
    return sum(array.nbytes for array in item.datasets.values())


def pack_record(position: int, item: Item) -> bytes:
    """Return one journal record: a line of JSON that describes the item, then the bytes of its arrays.

    The record of a large item is compressed: masks shrink to a few per cent of the 24 MB of a 12-megapixel photograph.
    """
    record = _build_record(position, item)
    return zlib.compress(record, 1) if count_bytes(item) > MAX_PLAIN_BYTES else record


def _build_record(position: int, item: Item) -> bytes:
    arrays: list[np.ndarray] = []

    def describe(value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            arrays.append(np.ascontiguousarray(value))
            return {"dtype": arrays[-1].dtype.str, "shape": list(np.shape(value))}
        return value

    head = {
        "position": position, "id": item.id, "error": item.error,
        "datasets": {name: describe(item.datasets[name]) for name in sorted(item.datasets)},
        "attrs": {name: describe(item.attrs[name]) for name in sorted(item.attrs)},
    }
    line = json.dumps(head, ensure_ascii=False).encode() + b"\n"
    return line + b"".join(array.tobytes() for array in arrays)


def unpack_record(record: bytes) -> tuple[int, Item]:
    """Return (position, item) from a journal record of `pack_record`."""
    if not record.startswith(b"{"):
        record = zlib.decompress(record)
    end = record.index(b"\n") + 1
    head = json.loads(record[:end])

    def restore(value: Any) -> Any:
        nonlocal end
        if not isinstance(value, dict):
            return value
        dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])
        size = dtype.itemsize * math.prod(shape)
        array = np.frombuffer(record[end:end + size], dtype=dtype).reshape(shape).copy()
        end += size
        return array

    datasets = {name: restore(value) for name, value in head["datasets"].items()}
    attrs = {name: restore(value) for name, value in head["attrs"].items()}
    return head["position"], Item(head["id"], datasets, attrs, head["error"])
