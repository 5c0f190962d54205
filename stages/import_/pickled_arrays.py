"""What replaces the functions by which pickles build arrays of NumPy and tensors of PyTorch."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from stages.errors import BadData

_MAX_AXES = 8
_STORAGE_TYPES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.HalfStorage": "<f2",
                  "torch.LongStorage": "<i8", "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2",
                  "torch.CharStorage": "|i1", "torch.ByteStorage": "|u1", "torch.BoolStorage": "|b1"}


class ArrayStub:
    """An object that a pickle creates first and fills later."""

    def set_state(self, state: Any) -> None:
        """Take over the state that the pickle gives. Raises BadData if it is not that of such an object."""
        raise NotImplementedError

    def build(self) -> Any:
        """Return the object, always the same one."""
        raise NotImplementedError


class _Dtype(ArrayStub):
    """The type of the numbers of an array; `is_object` for an array of Python objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not (isinstance(code, str) and len(code) <= 3):
            raise BadData("an array in the pickle has an unknown type")
        self.dtype = np.dtype(code)
        self.is_object = self.dtype.kind == "O"
        if not self.is_object and (self.dtype.kind not in "biuf" or self.dtype.itemsize > 8):
            raise BadData(f"an array in the pickle has the type {self.dtype}, which holds no numbers")

    def set_state(self, state: Any) -> None:
        """Take over the order of bytes."""
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")
                and state[2:5] == (None, None, None)):
            raise BadData("an array in the pickle has an unknown type")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])

    def build(self) -> Any:
        """Raise BadData: the type of an array is no result by itself."""
        raise BadData("the pickle in the file holds the type of an array, but no array")


class _Array(ArrayStub):
    """An array, or the list of the elements of an array of objects."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def set_state(self, state: Any) -> None:
        """Take over the shape, the type and the data."""
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Dtype)):
            raise BadData("an array in the pickle is incomplete")
        _, shape, dtype, is_fortran, data = state
        if not dtype.is_object:
            self.value = _build_array(data, dtype, shape, "F" if is_fortran else "C")
        elif isinstance(data, list) and _count_values(shape) == len(data):
            self.value = data
        else:
            raise BadData("an array of objects in the pickle is incomplete")

    def build(self) -> Any:
        """Return the array or the list. Raises BadData if the pickle did not fill it."""
        if self.value is None:
            raise BadData("an array in the pickle is incomplete")
        return self.value


def _count_values(shape: Any) -> int:
    """Return the product of a shape. Raises BadData unless it is a tuple of a few whole numbers."""
    if not (isinstance(shape, tuple) and len(shape) <= _MAX_AXES
            and all(type(length) is int and 0 <= length < 1 << 40 for length in shape)):
        raise BadData("an array in the pickle has an invalid shape")
    return math.prod(shape)


def _build_array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """Return an array of numbers. Raises BadData unless `data` has exactly as many as its shape says."""
    data = data.encode("latin-1") if isinstance(data, str) else data  # written by Python 2
    if not (isinstance(dtype, _Dtype) and not dtype.is_object and isinstance(data, bytes) and order in ("C", "F")):
        raise BadData("an array in the pickle has no data")
    if _count_values(shape) * dtype.dtype.itemsize != len(data):
        raise BadData(f"an array in the pickle has {len(data)} bytes, but its shape {shape} and type {dtype.dtype} "
                      f"need {_count_values(shape) * dtype.dtype.itemsize}")
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
    return array.astype(dtype.dtype.newbyteorder("="), copy=False)


def _build_scalar(dtype: Any, data: Any) -> Any:
    return _build_array(data, dtype, ()).item()


def _encode_text(text: Any, encoding: Any = "latin1") -> bytes:
    """Return bytes, which Python 3 writes as text in old versions of pickles."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise BadData("the pickle in the file encodes text in an unknown way")
    return text.encode("latin-1")


class StorageReference:
    """The numbers of a tensor, which are stored elsewhere in the file under a key."""

    def __init__(self, reference: Any, type_name: str) -> None:
        """Take over PyTorch's reference: ("storage", its type, its key, the device, its length, None)."""
        if type_name not in _STORAGE_TYPES or any(part is not None for part in reference[5:]):
            raise BadData(f"a tensor in the pickle has the unknown type {type_name[:60]}")
        self.dtype, self.key = np.dtype(_STORAGE_TYPES[type_name]), reference[2]


def load_torch_storage(read_object: Callable[[], Any], stream: io.BytesIO) -> np.ndarray:
    """Return the numbers (n,) of a tensor from PyTorch's first file format, which pickles of tensors contain.

    The format: a magic number, a version and a description of the machine, each a pickle; the reference to the
    storage; the keys of all storages; for each its length in 8 bytes, and its numbers.
    """
    _magic, _version, _machine, reference, keys = (read_object() for _ in range(5))
    if not isinstance(reference, StorageReference) or keys != [reference.key]:
        raise BadData("a tensor in the pickle is stored in an unknown way")
    length, data = int.from_bytes(stream.read(8), "little"), stream.read()
    if length * reference.dtype.itemsize != len(data):
        raise BadData(f"a tensor in the pickle has {len(data)} bytes instead of {length * reference.dtype.itemsize}")
    return np.frombuffer(data, reference.dtype)


def _build_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Return a tensor as an array. Raises BadData if it reaches beyond its storage or repeats numbers."""
    num_values = _count_values(size)
    _count_values(stride)
    if not (isinstance(storage, np.ndarray) and type(offset) is int and offset >= 0 and len(size) == len(stride)):
        raise BadData("a tensor in the pickle is incomplete")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if num_values > len(storage) or (num_values and last >= len(storage)):
        raise BadData(f"a tensor in the pickle has the shape {size}, but only {len(storage)} numbers")
    if not num_values:
        return np.zeros(size, storage.dtype)
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()


def _build_empty_bytes() -> bytes:
    return b""


def _reject_call(*_: Any) -> Any:
    raise BadData("the pickle in the file calls a class of NumPy or PyTorch in an unknown way")


ARRAY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _Array, "numpy.core.multiarray.scalar": _build_scalar,
    "numpy.core.numeric._frombuffer": _build_array, "numpy.dtype": _Dtype, "numpy.ndarray": _reject_call,
    "_codecs.encode": _encode_text, "__builtin__.bytes": _build_empty_bytes, "builtins.bytes": _build_empty_bytes,
    "torch._utils._rebuild_tensor_v2": _build_tensor,
    **dict.fromkeys(_STORAGE_TYPES, _reject_call)}
