"""The item of one image in a shard, its HDF5 group name and its journal record."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.errors import BadData


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


def pack_record(position: int, item: Item) -> bytes:
    """Return one journal record: a line of JSON that describes the item, then the bytes of its arrays."""
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
