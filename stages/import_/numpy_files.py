"""Read arrays and simple objects from the bytes of .npy and .npz files; nothing in them is executed."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from stages.data.npy_arrays import decode_npy_numbers, read_npy_header
from stages.errors import BadData
from stages.import_.pickle_reader import read_pickle

NPY_SIGNATURE, NPZ_SIGNATURE = b"\x93NUMPY", b"PK"
_MAX_NPZ_BYTES = 1 << 31  # of all arrays in a file, unpacked
_MAX_NPZ_ARRAYS = 10_000
_DAMAGED_REMEDY = "Save the array again with np.save"


def decode_npy(data: bytes, where: str) -> np.ndarray | object:
    """Return the array of an .npy file, or the Python object that np.save stored in it.

    An object may consist of dictionaries, lists, tuples, text, numbers and arrays. Raises BadData for anything else.
    """
    (_, _, dtype), offset = read_npy_header(data, where)
    if dtype.hasobject:
        return _extract_object(read_pickle(data[offset:], where))
    return decode_npy_numbers(data, where)


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
