"""One image's share of a shard, and how its id becomes a group name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.errors import BadData


@dataclass(frozen=True)
class Item:
    """What a shard holds of one image; `error` instead of contents where the image was refused."""

    id: str
    datasets: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def group_name(item_id: str) -> str:
    """Return the HDF5 group name of an id: '/', '%' and the ids '.' and '..' are percent-encoded."""
    if item_id in (".", ".."):
        return item_id.replace(".", "%2E")
    return item_id.replace("%", "%25").replace("/", "%2F")


def item_id(name: str) -> str:
    """Return the id of a group name: the inverse of `group_name`."""
    return name.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def checked_id(text: str, where: str = "") -> str:
    """Return `text` when it can be an id (1 to 200 characters, no NUL, tab or line break); else BadData."""
    if not 1 <= len(text) <= 200 or any(mark in text for mark in "\0\n\r\t"):
        raise BadData(f"{text[:40]!r} can't be an id", "ids have 1 to 200 characters, no tab or line break",
                      where=where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadData(f"{text[:40]!r} is no valid Unicode", "rename the file", where=where) from None
    return text


def pack(position: int, item: Item) -> bytes:
    """Return one journal record: a line of JSON that describes the arrays, then their bytes."""
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


def unpack(record: bytes) -> tuple[int, Item]:
    """Return (position, item) of a journal record made by `pack`."""
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
