"""Decode the run lengths of Label Studio's brush labels: a stream of bits that packs an RGBA image."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.errors import BadData

_REMEDY = "Export the annotations again, as JSON"


class _BitReader:
    """Reads whole numbers of any width from a stream of bits, highest bit first."""

    def __init__(self, data: bytes, where: str) -> None:
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._digits = (self.bits + ord("0")).tobytes()
        self.position, self._where = 0, where

    def read(self, width: int) -> int:
        """Read a number of `width` bits. Raises BadData at the end of the stream."""
        return int(self._digits[self._advance(width)], 2)

    def read_array(self, count: int, width: int) -> np.ndarray:
        """Read `count` numbers of `width` bits."""
        values = self.bits[self._advance(count * width)].reshape(count, width)
        return values @ (1 << np.arange(width - 1, -1, -1))

    def _advance(self, width: int) -> slice:
        start, self.position = self.position, self.position + width
        if self.position > self.bits.size:
            raise BadData("the RLE of the brush ends too early", _REMEDY, where=self._where)
        return slice(start, self.position)


def decode_brush(rle: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Return the painted pixels, bool (H, W), of a brush label of an image of (H, W) `size`.

    The stream begins with the number of values (32 bits), the bits per value - 1 (5 bits) and four widths of counts - 1
    (4 bits each). Blocks follow: a bit that says whether one value is repeated, the number of the width of its count
    (2 bits), the count - 1, and the value or values. The values are red, green, blue and alpha of each pixel, row by
    row; alpha is the paint. Raises BadData for another stream, and for an image of another size.
    """
    try:
        reader = _BitReader(bytes(rle), where)
    except (TypeError, ValueError):
        raise BadData("the RLE of the brush is not a list of bytes", _REMEDY, where=where) from None
    num_values, value_width = reader.read(32), reader.read(5) + 1
    if num_values != 4 * size[0] * size[1]:
        raise BadData(f"the RLE of the brush has {num_values} values, but the image has 4 x {size[0]}x{size[1]}",
                      _REMEDY, where=where)
    count_widths = [reader.read(4) + 1 for _ in range(4)]
    values, position = np.zeros(num_values, np.uint8), 0
    while position < num_values:
        is_repeated, width = reader.read(1), count_widths[reader.read(2)]
        count = reader.read(width) + 1
        block = reader.read(value_width) if is_repeated else reader.read_array(count, value_width)
        if position + count > num_values or np.max(block) > 255:
            raise BadData("the RLE of the brush has too many or too large values", _REMEDY, where=where)
        values[position:position + count] = block
        position += count
    return values.reshape(*size, 4)[..., 3] > 0
