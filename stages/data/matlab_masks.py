"""Decode masks of class ids from MATLAB files of the Semantic Boundaries Dataset (SBD).

Hariharan et al., "Semantic Contours from Inverse Detectors" (ICCV 2011): `dataset/cls/ID.mat` contains the struct
`GTcls` with the fields Boundaries, Segmentation and CategoriesPresent. Only the part of MATLAB's format 5 (see its
"MAT-File Format" document) that leads to Segmentation is read. scipy.io.loadmat is not used, because it allocates what
a header claims: a file of 300 bytes that claimed 400 million structs took 3.2 GB before it was rejected.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from stages.data.images import MAX_PIXELS, REPLACE_REMEDY
from stages.errors import BadData

VARIABLE_NAME, FIELD_NAME = "GTcls", "Segmentation"
_FOLDER_REMEDY = "Use the masks in SBD's folder cls"
_HEADER_SIZE = 128
_MATRIX_TYPE, _COMPRESSED_TYPE = 14, 15
_STRUCT_CLASS, _NUMERIC_CLASSES = 2, range(6, 16)
_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


@dataclass(frozen=True)
class _Array:
    """A MATLAB array: its class, dimensions and name, and a reader of the elements that follow."""

    matlab_class: int
    shape: tuple[int, ...]
    name: str
    elements: _ElementReader


def is_matlab_file(data: bytes) -> bool:
    """Return whether encoded bytes are a MATLAB file of format 5 or 7.3, by the first words of the header."""
    return data.startswith((b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"))


def decode_matlab_mask(data: bytes, *, where: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode GTcls.Segmentation (H, W) as stored: uint8, or uint16 if a value exceeds 255.

    SBD's masks have no border: PASCAL VOC's masks have 255 around every object, but these extend to the edge of the
    object, so scores on the two differ. Raises BadData for a truncated file, other variables, and more than
    `max_pixels`.
    """
    if data.startswith(b"MATLAB 7.3"):
        raise BadData("this is a MATLAB file of version 7.3", "Save it with -v7", where=where)
    try:
        values = _read_segmentation(_find_variable(data, where, 2 * max_pixels + (1 << 20)), where, max_pixels)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise BadData(f"the MATLAB file is truncated or damaged ({error})", REPLACE_REMEDY, where=where) from error
    if not values.size or not np.isfinite(values).all() or (values != np.floor(values)).any() or values.min() < 0 or (
            values.max() > np.iinfo(np.uint16).max):
        raise BadData(f"{VARIABLE_NAME}.{FIELD_NAME} has values that are not class ids",
                      "Save class ids, which are whole numbers from 0 to 65535", where=where)
    return values.astype(np.uint8 if values.max() <= np.iinfo(np.uint8).max else np.uint16)


def _find_variable(data: bytes, where: str, max_bytes: int) -> _Array:
    """Return the variable GTcls of a file, which may decompress to at most `max_bytes` bytes."""
    byte_order = {b"IM": "<", b"MI": ">"}.get(data[_HEADER_SIZE - 2:_HEADER_SIZE])
    if byte_order is None:
        raise ValueError("its header is incomplete")
    elements, names = _ElementReader(memoryview(data)[_HEADER_SIZE:], byte_order), []
    while elements.has_next:
        element_type, payload = elements.read_next()
        if element_type == _COMPRESSED_TYPE:
            decompressor = zlib.decompressobj()
            decompressed = decompressor.decompress(payload, max_bytes)
            if decompressor.unconsumed_tail:
                raise BadData(f"the MATLAB file decompresses to more than {max_bytes} bytes", REPLACE_REMEDY,
                              where=where)
            element_type, payload = _ElementReader(memoryview(decompressed), byte_order).read_next()
        if element_type == _MATRIX_TYPE:
            array = _parse_array(payload, byte_order)
            if array.name == VARIABLE_NAME:
                return array
            names.append(array.name)
    raise BadData(f"the MATLAB file lacks the variable {VARIABLE_NAME} (it has {', '.join(names) or 'none'})",
                  _FOLDER_REMEDY, where=where)


def _read_segmentation(array: _Array, where: str, max_pixels: int) -> np.ndarray:
    """Return the field Segmentation (H, W) of the 1x1 struct `array`."""
    fields: list[str] = []
    if array.matlab_class == _STRUCT_CLASS:
        length = int(array.elements.read_numbers()[0])
        packed = bytes(array.elements.read_next()[1])
        fields = [_decode_name(packed[start:start + length]) for start in range(0, len(packed), max(1, length))]
    if FIELD_NAME not in fields:
        raise BadData(f"{VARIABLE_NAME} lacks the field {FIELD_NAME} (it has {', '.join(fields) or 'none'})",
                      _FOLDER_REMEDY, where=where)
    for _ in range(fields.index(FIELD_NAME)):
        array.elements.read_next()
    segmentation = _parse_array(array.elements.read_next()[1], array.elements.byte_order)
    if len(segmentation.shape) != 2 or segmentation.matlab_class not in _NUMERIC_CLASSES:
        raise BadData(f"{VARIABLE_NAME}.{FIELD_NAME} is not a matrix of numbers", _FOLDER_REMEDY, where=where)
    height, width = segmentation.shape
    if height * width > max_pixels:
        raise BadData(f"the mask has {height}x{width} = {height * width} pixels, more than the limit of {max_pixels}",
                      "Run `wsss index` with a larger --max-pixels", where=where)
    return segmentation.elements.read_numbers().reshape(segmentation.shape, order="F")


def _parse_array(payload: memoryview, byte_order: str) -> _Array:
    elements = _ElementReader(payload, byte_order)
    matlab_class = int(elements.read_numbers()[0]) & 0xFF
    shape = tuple(int(side) for side in elements.read_numbers())
    return _Array(matlab_class, shape, _decode_name(bytes(elements.read_next()[1])), elements)


def _decode_name(encoded: bytes) -> str:
    name = encoded.split(b"\0")[0].decode("ascii", errors="replace")
    return name if name.isprintable() else "?"


class _ElementReader:
    """Read tagged elements in sequence; raises ValueError if an element extends beyond the data."""

    def __init__(self, data: memoryview, byte_order: str) -> None:
        self._data, self._position, self.byte_order = data, 0, byte_order

    @property
    def has_next(self) -> bool:
        return self._position < len(self._data)

    def read_next(self) -> tuple[int, memoryview]:
        """Return (type, bytes) of the next element."""
        element_type, size = struct.unpack_from(f"{self.byte_order}II", self._data, self._position)
        start = self._position + 8
        if element_type >> 16:  # an element of up to four bytes is stored in the tag itself
            element_type, size, start = element_type & 0xFFFF, element_type >> 16, self._position + 4
        payload = self._data[start:start + size]
        if len(payload) < size:
            raise ValueError(f"{len(payload)} of {size} bytes are there")
        end = start + size
        # All elements but compressed ones are padded to a multiple of eight bytes.
        self._position = end if element_type == _COMPRESSED_TYPE else end + -end % 8
        return element_type, payload

    def read_numbers(self) -> np.ndarray:
        """Return the numbers of the next element."""
        element_type, payload = self.read_next()
        if element_type not in _NUMPY_TYPES:
            raise ValueError(f"an element of type {element_type} does not contain numbers")
        return np.frombuffer(payload, dtype=np.dtype(_NUMPY_TYPES[element_type]).newbyteorder(self.byte_order))
