"""Read pickles as data: dictionaries, lists, numbers, text and arrays, without executing anything.

The opcodes are interpreted here, one by one. A pickle names functions to be called; the few that NumPy and PyTorch name
for their arrays are replaced by functions of this file, and all others are rejected. Python's own unpickler can't be
restricted enough: a pickle of some bytes makes it allocate gigabytes.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stages.errors import BadData
from stages.import_.pickled_arrays import ARRAY_FUNCTIONS, ArrayStub, StorageReference, load_torch_storage

_MAX_OPCODES = 2_000_000
_MAX_DEPTH = 20  # of containers in each other
_FREE_BYTES = 1 << 20  # of arrays, whatever the size of the pickle
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_REMEDY = ("Save the maps with np.savez, one array per class, and import the .npz files; wsss never runs code from a "
           "file")
_MARK: Any = object()
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
           "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
           "BINBYTES8", "BYTEARRAY8"}
_IGNORED = {"PROTO", "FRAME"}


def read_pickle(data: bytes, where: str) -> Any:
    """Return the object in a pickle: dict, list, tuple, text, bytes, numbers and arrays of numbers.

    An array of objects becomes the list of its elements. The memory needed is a small multiple of `data`. Raises
    BadData for a damaged pickle and for one that contains or calls anything else.
    """
    try:
        return _replace_stubs(_read_object(io.BytesIO(data)), {}, 0)
    except BadData as error:
        raise BadData(error.message, error.remedy or _REMEDY, where=where) from None
    except (MemoryError, RecursionError):
        raise BadData("the pickle is nested too deeply or too large", _REMEDY, where=where) from None
    except Exception as error:  # struct.error, ValueError, IndexError, UnicodeDecodeError, ... of damaged data
        raise BadData(f"the pickle in the file is damaged ({' '.join(str(error).split())[:100]})", _REMEDY,
                      where=where) from None


def _read_object(stream: io.BytesIO) -> Any:
    """Return the next object of a stream, which is then behind it."""
    machine = _Machine(_FREE_BYTES + 4 * len(stream.getbuffer()))
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number > _MAX_OPCODES:
            raise BadData(f"the pickle has more than {_MAX_OPCODES} operations")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.execute(opcode.name, argument)
    raise BadData("the pickle has no end")


class _Global:
    """The name of a class or function in a pickle, and what replaces it."""

    def __init__(self, module: str, name: str) -> None:
        self.name = f"{module}.{name}"
        # NumPy 2 has moved its private modules: numpy._core is what numpy.core was.
        key = self.name.replace("numpy._core.", "numpy.core.")
        if key not in _FUNCTIONS:
            raise BadData(f"the pickle in the file would call {self.name[:80]}, which is not an array of NumPy or "
                          "PyTorch")
        self.function = _FUNCTIONS[key]


def _build_dictionary() -> dict:
    return {}


def _load_storage(data: bytes) -> Any:
    """Return the numbers of a PyTorch tensor in a pickle, which are a file of several pickles themselves."""
    if not isinstance(data, bytes):
        raise BadData("a tensor in the pickle has no data")
    stream = io.BytesIO(data)
    return load_torch_storage(lambda: _read_object(stream), stream)


_FUNCTIONS: dict[str, Callable[..., Any]] = {**ARRAY_FUNCTIONS, "collections.OrderedDict": _build_dictionary,
                                             "torch.storage._load_from_bytes": _load_storage}


class _Machine:
    """The stack and the memo of the pickle machine; `num_free_bytes` are those that arrays may still take."""

    def __init__(self, num_free_bytes: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.num_free_bytes = num_free_bytes

    def execute(self, name: str, argument: Any) -> None:
        """Execute one opcode. Raises BadData for those that arrays do not need."""
        if name in _VALUES:
            self.stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif name in _LITERALS:
            self.stack.append(_LITERALS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            self.stack.append(_Global(*argument.split(" ", 1)))
        elif name not in _IGNORED:
            handler = getattr(self, f"_do_{name.lower()}", None)
            if handler is None:
                raise BadData(f"the pickle in the file has the operation {name}, which arrays do not need")
            handler()

    def _pop_to_mark(self) -> list[Any]:
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise BadData("the pickle in the file is damaged (no mark)")
        values = self.stack[position + 1:]
        del self.stack[position:]
        return values

    def _do_mark(self) -> None:
        self.stack.append(_MARK)

    def _do_pop(self) -> None:
        self.stack.pop()

    def _do_pop_mark(self) -> None:
        self._pop_to_mark()

    def _do_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _do_empty_dict(self) -> None:
        self.stack.append({})

    def _do_empty_list(self) -> None:
        self.stack.append([])

    def _do_empty_tuple(self) -> None:
        self.stack.append(())

    def _do_dict(self) -> None:
        values = self._pop_to_mark()
        self.stack.append({})
        self._add_pairs(values)

    def _do_list(self) -> None:
        self.stack.append(self._pop_to_mark())

    def _do_tuple(self) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _do_tuple1(self) -> None:
        self._build_tuple(1)

    def _do_tuple2(self) -> None:
        self._build_tuple(2)

    def _do_tuple3(self) -> None:
        self._build_tuple(3)

    def _build_tuple(self, length: int) -> None:
        values = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.stack.append(values)

    def _do_append(self) -> None:
        value = self.stack.pop()
        self._require_top(list).append(value)

    def _do_appends(self) -> None:
        values = self._pop_to_mark()
        self._require_top(list).extend(values)

    def _do_setitem(self) -> None:
        values = self.stack[-2:]
        del self.stack[-2:]
        self._add_pairs(values)

    def _do_setitems(self) -> None:
        self._add_pairs(self._pop_to_mark())

    def _add_pairs(self, values: list[Any]) -> None:
        target = self._require_top(dict)
        for key, value in _iterate_pairs(values):
            # A tuple that contains the same tuple twice, and so on, would take for ever to hash.
            if not isinstance(key, _KEY_TYPES):
                raise BadData(f"a dictionary in the pickle has a key of the type {type(key).__name__}")
            target[key] = value

    def _require_top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise BadData(f"the pickle in the file is damaged (no {kind.__name__})")
        return self.stack[-1]

    def _do_stack_global(self) -> None:
        module, name = self.stack[-2:]
        del self.stack[-2:]
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BadData("the pickle in the file is damaged (the name of a function is no text)")
        self.stack.append(_Global(module, name))

    def _do_binpersid(self) -> None:
        reference = self.stack.pop()
        if not (isinstance(reference, tuple) and len(reference) >= 5 and isinstance(reference[1], _Global)):
            raise BadData("the pickle in the file refers to other files")
        self.stack.append(StorageReference(reference, reference[1].name))

    def _do_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not (isinstance(function, _Global) and isinstance(arguments, tuple)):
            raise BadData("the pickle in the file calls something that is not a function")
        self.stack.append(function.function(*arguments))
        self._count_bytes(self.stack[-1])

    def _do_build(self) -> None:
        state = self.stack.pop()
        self._require_top(ArrayStub).set_state(state)
        self._count_bytes(getattr(self.stack[-1], "value", None))

    def _count_bytes(self, value: Any) -> None:
        """Raise BadData if the arrays take many times the memory of the pickle, which can repeat its data."""
        num_bytes = value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0
        self.num_free_bytes -= num_bytes
        if self.num_free_bytes < 0:
            raise BadData("the pickle in the file builds the same array many times")


def _iterate_pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(values) % 2:
        raise BadData("the pickle in the file is damaged (a key without a value)")
    return zip(values[::2], values[1::2], strict=True)


def _replace_stubs(value: Any, results: dict[int, Any], depth: int) -> Any:
    """Return a result with arrays in place of their stubs. `results` are those of containers, visited once each."""
    if depth > _MAX_DEPTH:
        raise BadData("the pickle in the file is nested too deeply")
    if isinstance(value, ArrayStub):
        value = value.build()
    if isinstance(value, (np.ndarray, *_KEY_TYPES)):
        return value
    if not isinstance(value, (dict, list, tuple)):
        raise BadData("the pickle in the file holds a function or a storage, not an array")
    if id(value) not in results:
        results[id(value)] = None  # a container that contains itself
        if isinstance(value, dict):
            results[id(value)] = {key: _replace_stubs(part, results, depth + 1) for key, part in value.items()}
        else:
            parts = [_replace_stubs(part, results, depth + 1) for part in value]
            results[id(value)] = tuple(parts) if isinstance(value, tuple) else parts
    return results[id(value)]
