"""Read arrays from the bytes of .npy and .npz files; nothing in them is executed.

NumPy's own reader allocates the size that a header claims before it knows whether the data are there.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np

from stages.errors import BadData
from stages.import_.pickle_reader import read_pickle

NPY_SIGNATURE, NPZ_SIGNATURE = b"\x93NUMPY", b"PK"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
            (3, 0): np.lib.format.read_array_header_2_0}  # 3.0 is 2.0 with UTF-8 in the names of fields
_MAX_NPZ_BYTES = 1 << 31  # of all arrays in a file, unpacked
_MAX_NPZ_ARRAYS = 10_000
_DAMAGED_REMEDY = "Save the array again with np.save"


def decode_npy(data: bytes, where: str) -> np.ndarray | object:
    """Return the array of an .npy file, or the Python object that np.save stored in it.

    An object may consist of dictionaries, lists, tuples, text, numbers and arrays. Raises BadData for anything else.
    """
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that Python 2 wrote the file, which is no reason to save it again
            header = _READERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # ValueError, KeyError, SyntaxError, ... of a damaged header
        raise BadData(f"the .npy file is damaged ({str(error)[:100] or type(error).__name__})", _DAMAGED_REMEDY,
                      where=where) from None
    shape, is_fortran, dtype = header
    if dtype.hasobject:
        return _extract_object(read_pickle(data[stream.tell():], where))
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise BadData(f"the array has the type {dtype}, which holds no numbers", _DAMAGED_REMEDY, where=where)
    num_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or num_bytes != len(data) - stream.tell():
        raise BadData(f"the .npy file has {len(data) - stream.tell()} bytes of data, but its header says {num_bytes}",
                      "Copy the file again; it is truncated or damaged", where=where)
    array = np.frombuffer(data, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if is_fortran else "C").astype(dtype.newbyteorder("="), copy=False)


def _extract_object(value: object) -> object:
    """Return the only element of an array of objects, which is how np.save stores a dictionary."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def decode_npz(data: bytes, where: str) -> Mapping[str, np.ndarray]:
    """Return the arrays of an .npz file by name. Raises BadData."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > _MAX_NPZ_ARRAYS or sum(member.file_size for member in members) > _MAX_NPZ_BYTES:
                raise BadData(f"the .npz file has {len(members)} arrays with more than {_MAX_NPZ_BYTES} bytes",
                              "Save fewer arrays in one file", where=where)
            contents = {member.filename.removesuffix(".npy"): _read_member(archive, member, where)
                        for member in members}
    except BadData:
        raise
    except Exception as error:  # zipfile and zlib raise many types of exceptions for damaged archives
        raise BadData(f"the .npz file is damaged ({str(error)[:100] or type(error).__name__})",
                      "Save the arrays again with np.savez", where=where) from None
    arrays = {name: decode_npy(content, f"{where}: {name}") for name, content in contents.items()}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> bytes:
    """Return the bytes of a member, no more than its header says."""
    with archive.open(member) as file:
        content = file.read(member.file_size + 1)
    if len(content) != member.file_size:
        raise BadData(f"the array {member.filename} has another size than the .npz file says",
                      "Save the arrays again with np.savez", where=where)
    return content
