"""Read arrays of numbers in NumPy's .npy format; nothing in them is executed.

NumPy's own reader allocates the size that a header claims before it knows whether the data are there, and a damaged
header ends it with one of six types of exceptions.
"""

from __future__ import annotations

import io
import math
import warnings

import numpy as np

from stages.errors import BadData

Header = tuple[tuple[int, ...], bool, np.dtype]
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
            (3, 0): np.lib.format.read_array_header_2_0}  # 3.0 is 2.0 with UTF-8 in the names of fields
_DAMAGED_REMEDY = "Save the array again with np.save"


def read_npy_header(data: bytes, where: str) -> tuple[Header, int]:
    """Return the header (shape, whether columns come first, type) and its length. Raises BadData for another file."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Python 2 wrote the file, which is no reason to save it again
            header = _READERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # ValueError, KeyError, SyntaxError, TokenError, ... of a damaged header
        reason = " ".join(str(error).split())[:100]
        raise BadData(f"the .npy file is damaged ({reason or type(error).__name__})", _DAMAGED_REMEDY,
                      where=where) from None
    return header, stream.tell()


def decode_npy_numbers(data: bytes, where: str) -> np.ndarray:
    """Return an array of numbers in the byte order of this machine. Raises BadData for other types and lengths."""
    (shape, is_fortran, dtype), offset = read_npy_header(data, where)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise BadData(f"the array has the type {dtype}, which holds no numbers", _DAMAGED_REMEDY, where=where)
    num_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or num_bytes != len(data) - offset:
        raise BadData(f"the .npy file has {len(data) - offset} bytes of data, but its header says {num_bytes}",
                      "Copy the file again; it is truncated or damaged", where=where)
    array = np.frombuffer(data, dtype, offset=offset)
    return array.reshape(shape, order="F" if is_fortran else "C").astype(dtype.newbyteorder("="), copy=False)
