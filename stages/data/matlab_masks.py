"""Masks of class ids in MATLAB files, as the Semantic Boundaries Dataset (SBD) stores them.

Hariharan et al., "Semantic Contours from Inverse Detectors" (ICCV 2011): `dataset/cls/ID.mat` holds the struct `GTcls`
with the fields Boundaries, Segmentation and CategoriesPresent. Of MATLAB's format 5 (its "MAT-File Format" document)
only what leads to Segmentation is read, because scipy.io.loadmat allocates what a header claims: one of 300 bytes that
says 400 million structs took 3.2 GB before it was refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from stages.data.images import MAX_PIXELS, REPLACE
from stages.errors import BadData

VARIABLE, FIELD = "GTcls", "Segmentation"
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _NUMBERS = 2, range(6, 16)
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


@dataclass(frozen=True)
class _Array:
    """A MATLAB array: its class, dimensions and name, and what follows them."""

    kind: int
    shape: tuple[int, ...]
    name: str
    rest: _Elements


def is_matlab(data: bytes) -> bool:
    """Tell whether encoded bytes are a MATLAB file of format 5 or 7.3, by the first words of its header."""
    return data.startswith((b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"))


def decode_matlab(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return GTcls.Segmentation (H, W) as it is stored: uint8, or uint16 where a value is over 255.

    SBD's masks have no border: where PASCAL VOC's have 255 around every object, these go on to the edge, so scores
    on the two are not the same. Raises BadData for a file cut short, other variables, and more than `max_pixels`.
    """
    if data.startswith(b"MATLAB 7.3"):
        raise BadData("MATLAB file of version 7.3", "save it with -v7", where=where)
    try:
        values = _segmentation(_variable(data, where, 2 * max_pixels + (1 << 20)), where, max_pixels)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise BadData(f"MATLAB file cut short or damaged ({error})", REPLACE, where=where) from error
    if not values.size or not np.isfinite(values).all() or (values != np.floor(values)).any() or values.min() < 0 or (
            values.max() > np.iinfo(np.uint16).max):
        raise BadData(f"{VARIABLE}.{FIELD} holds values that are no class ids", "give whole numbers from 0 on",
                      where=where)
    return values.astype(np.uint8 if values.max() <= np.iinfo(np.uint8).max else np.uint16)


def _variable(data: bytes, where: str, most: int) -> _Array:
    """Return the variable GTcls of a file; what is compressed may have `most` bytes."""
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER - 2:_HEADER])
    if order is None:
        raise ValueError("its header is not whole")
    elements, names = _Elements(memoryview(data)[_HEADER:], order), []
    while elements.left:
        kind, payload = elements.next()
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(payload, most)
            if inflater.unconsumed_tail:
                raise BadData(f"MATLAB file that expands to over {most} bytes", REPLACE, where=where)
            kind, payload = _Elements(memoryview(inflated), order).next()
        if kind == _MATRIX:
            array = _array(payload, order)
            if array.name == VARIABLE:
                return array
            names.append(array.name)
    raise BadData(f"MATLAB file without the variable {VARIABLE} (it has {', '.join(names) or 'none'})",
                  "give the folder cls of SBD", where=where)


def _segmentation(array: _Array, where: str, max_pixels: int) -> np.ndarray:
    """Return the field Segmentation (H, W) of the 1x1 struct `array`."""
    fields: list[str] = []
    if array.kind == _STRUCT:
        length = int(array.rest.numbers()[0])
        packed = bytes(array.rest.next()[1])
        fields = [_text(packed[start:start + length]) for start in range(0, len(packed), max(1, length))]
    if FIELD not in fields:
        raise BadData(f"{VARIABLE} without the field {FIELD} (it has {', '.join(fields) or 'none'})",
                      "give the folder cls of SBD", where=where)
    for _ in range(fields.index(FIELD)):
        array.rest.next()
    found = _array(array.rest.next()[1], array.rest.order)
    if len(found.shape) != 2 or found.kind not in _NUMBERS:
        raise BadData(f"{VARIABLE}.{FIELD} is no matrix of numbers", "give the folder cls of SBD", where=where)
    height, width = found.shape
    if height * width > max_pixels:
        raise BadData(f"mask of {height}x{width} = {height * width} pixels is over the limit of {max_pixels}",
                      "shrink it or raise --max-pixels", where=where)
    return found.rest.numbers().reshape(found.shape, order="F")


def _array(payload: memoryview, order: str) -> _Array:
    rest = _Elements(payload, order)
    kind = int(rest.numbers()[0]) & 0xFF
    shape = tuple(int(side) for side in rest.numbers())
    return _Array(kind, shape, _text(bytes(rest.next()[1])), rest)


def _text(stored: bytes) -> str:
    name = stored.split(b"\0")[0].decode("ascii", errors="replace")
    return name if name.isprintable() else "?"


class _Elements:
    """Reads tagged elements one after the other; ValueError where one ends after the bytes do."""

    def __init__(self, data: memoryview, order: str) -> None:
        self._data, self._at, self.order = data, 0, order

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def next(self) -> tuple[int, memoryview]:
        """Return (type, bytes) of the next element."""
        kind, size = struct.unpack_from(f"{self.order}II", self._data, self._at)
        start = self._at + 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, self._at + 4
        payload = self._data[start:start + size]
        if len(payload) < size:
            raise ValueError(f"{len(payload)} of {size} bytes are there")
        end = start + size
        # All but compressed elements are filled up to a multiple of eight.
        self._at = end if kind == _COMPRESSED else end + -end % 8
        return kind, payload

    def numbers(self) -> np.ndarray:
        """Return the next element's numbers."""
        kind, payload = self.next()
        if kind not in _TYPES:
            raise ValueError(f"an element of type {kind} is no numbers")
        return np.frombuffer(payload, dtype=np.dtype(_TYPES[kind]).newbyteorder(self.order))
