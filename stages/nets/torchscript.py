"""TorchScript archives, as OpenAI has released its models: their tensors by name, without running what they hold.

Such a file is a zip of `data.pkl` (the modules and their attributes), `data/` (the bytes of the tensors) and `code/`.
`torch.jit.load` runs the archive's own `__setstate__`. Here a machine of its own works the few operations that PyTorch
writes to `data.pkl`: a name in it is never imported or called, and of the code the names of parameters and buffers
are read, as text.
"""

from __future__ import annotations

import math
import pickletools
import posixpath
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.errors import BadData
from stages.nets.finite import check_weights_finite

_DTYPES = {f"torch {name}Storage": dtype for name, dtype in {
    "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32, "Double": torch.float64,
    "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64, "Byte": torch.uint8,
    "Bool": torch.bool}.items()}
# What is no tensor is of no use here: lists stay what they are made of, anything else is left out.
_KEEPS_FIRST = {f"torch.jit._pickle {name}" for name in (
    "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")}
_LEFT_OUT = {"collections OrderedDict", "torch device", "builtins complex"}
_LONGEST, _MOST_NAMES, _MOST_REPEATED, _MOST_AXES = 1 << 26, 1_000_000, 1 << 24, 64
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """What the pickle calls by name: "module name", as text."""

    text: str


@dataclass(eq=False)
class _Object:
    """An object of one of the archive's classes: its attributes, nothing else."""

    of: str
    attributes: dict[str, Any] = field(default_factory=dict)


class _Refused(Exception):
    """Why an archive isn't read further."""


def is_torchscript(file: Path) -> bool:
    """Say whether this is an archive as OpenAI has released its models: TorchScript, with its code."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except Exception:
        return False


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Return parameters and buffers by name, on the CPU: what `torch.jit.load(file).state_dict()` gives.

    Raises BadData for a file that is cut short or damaged, for one that needs more than tensors to be put back, and
    for values that are not finite.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            archive = _Archive(opened, file.stat().st_size)
            tensors = archive.tensors(_Machine(archive.storage).run(archive.bytes("data.pkl")))
    except Exception as error:
        why = error.args[0] if isinstance(error, _TELLING) else f"its contents make no sense: {type(error).__name__}"
        raise BadData(f"no TorchScript file that can be read ({str(why)[:120]})", "fetch or copy it again",
                      where=str(file)) from None
    check_weights_finite(tensors, str(file))
    return tensors


def gelu_of_code(file: Path) -> str:
    """Return which GELU the code of an archive computes, "quick" (x sigmoid(1.702 x)) or "exact"; else an empty text.

    The code is searched as text. A CLIP has no other sigmoid.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            archive = _Archive(opened, file.stat().st_size)
            texts = [archive.bytes(name) for name in archive.code_names()]
    except Exception:
        return ""
    exact, quick = (any(re.search(pattern, text) for text in texts) for pattern in (rb"\bgelu\(", rb"\bsigmoid\("))
    return "" if exact == quick else "exact" if exact else "quick"


_TELLING = (_Refused, zipfile.BadZipFile)


class _Archive:
    """The members of an archive; all storages together are at most as large as the file."""

    def __init__(self, opened: zipfile.ZipFile, size: int) -> None:
        self._opened, self._left, self._walked = opened, size, 0
        self._top = next((posixpath.dirname(name) for name in opened.namelist()
                          if posixpath.basename(name) == "data.pkl"), "")
        self._storages: dict[tuple[str, str], Tensor] = {}
        self._declared: dict[str, tuple[tuple[str, ...], tuple[str, ...]] | None] = {}
        order = self.bytes("byteorder").decode() if f"{self._top}/byteorder" in opened.namelist() else sys.byteorder
        if order != sys.byteorder:
            raise _Refused(f"its numbers are {order}-endian")

    def bytes(self, name: str) -> bytes:
        """Return a member, which may be compressed."""
        with self._opened.open(self._told(name)) as member:
            data = member.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise _Refused(f"{name} is longer than {_LONGEST} bytes")
        return data

    def code_names(self) -> list[str]:
        """Return the members that hold code."""
        prefix = f"{self._top}/"
        return [name.removeprefix(prefix) for name in self._opened.namelist()
                if name.startswith(f"{prefix}code/") and name.endswith(".py")]

    def _told(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._opened.getinfo(f"{self._top}/{name}")
        except KeyError:
            raise _Refused(f"{name} is not in it") from None

    def storage(self, pickled: Any) -> Tensor:
        """Return the numbers (n,) that a persistent id names: ("storage", type, key, device, n)."""
        kind, dtype, key, _, count = pickled
        if kind != "storage" or type(key) is not str or type(count) is not int or dtype.text not in _DTYPES:
            raise _Refused(f"it holds {dtype.text}")
        if (dtype.text, key) not in self._storages:
            self._storages[dtype.text, key] = self._read(f"data/{key}", _DTYPES[dtype.text])
        found = self._storages[dtype.text, key]
        if len(found) != count:
            raise _Refused(f"data/{key} has {len(found)} numbers, not {count}")
        return found

    def _read(self, name: str, dtype: torch.dtype) -> Tensor:
        told = self._told(name)
        self._left -= told.file_size
        if told.compress_type != zipfile.ZIP_STORED or self._left < 0:
            raise _Refused(f"{name} is not stored as it is")
        data = bytearray(told.file_size)
        with self._opened.open(told) as member:
            if member.readinto(data) != len(data):
                raise _Refused(f"{name} is cut short")
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    def tensors(self, root: Any) -> dict[str, Tensor]:
        """Return the tensors below the outermost module, by name."""
        if not isinstance(root, _Object) or self._declared_by(root) is None:
            raise _Refused("it is no module")
        return dict(self._below(root, ""))

    def _below(self, module: _Object, prefix: str) -> Iterator[tuple[str, Tensor]]:
        # One module may stand in many places, and so a short file for more than anybody waits for.
        self._walked += 1 + len(module.attributes)
        if self._walked > _MOST_NAMES:
            raise _Refused(f"it has more than {_MOST_NAMES} names")
        for names in self._declared_by(module) or ():
            for name, value in module.attributes.items():
                if name in names and isinstance(value, Tensor):
                    yield prefix + name, value
        for name, value in module.attributes.items():
            if isinstance(value, _Object) and self._declared_by(value) is not None:
                yield from self._below(value, f"{prefix}{name}.")

    def _declared_by(self, one: _Object) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return the names of a class's parameters and of its buffers; None where it is no module."""
        if one.of not in self._declared:
            self._declared[one.of] = self._declaration(*one.of.split(" "))
        return self._declared[one.of]

    def _declaration(self, module: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        code = self.bytes(f"code/{module.replace('.', '/')}.py").decode()
        body = re.search(rf"^class {re.escape(name)}(?:\((\w*)\))?:\n((?:[ \t].*\n|\n)*)", code, re.MULTILINE)
        if body is None:
            raise _Refused(f"its code lacks the class {name}")
        if re.search(r"^  def __setstate__\(", body[2], re.MULTILINE):
            raise _Refused(f"its class {name} would be put back by code, which is not run")
        parameters, buffers = (tuple(re.findall(r'"([^"]*)"', (listed or [""])[0])) for listed in (
            re.search(rf"^  {kind} = \[.*\]$", body[2], re.MULTILINE) for kind in ("__parameters__", "__buffers__")))
        return (parameters, buffers) if body[1] == "Module" else None


class _Machine:
    """The operations by which PyTorch writes `data.pkl`, on a stack and a memory of its own."""

    def __init__(self, storage: Callable[[Any], Tensor]) -> None:
        self._storage, self._stack, self._memory = storage, [], {}  # type: ignore[var-annotated]
        put, take = self._stack.append, self._stack.pop
        self._operations: dict[str, Callable[[Any], Any]] = {
            "PROTO": lambda _: None, "MARK": lambda _: put(_MARK), "NONE": lambda _: put(None),
            "NEWTRUE": lambda _: put(True), "NEWFALSE": lambda _: put(False),
            "GLOBAL": lambda text: put(_Name(text)), "BINPERSID": lambda _: put(self._storage(take())),
            "EMPTY_TUPLE": lambda _: put(()), "EMPTY_LIST": lambda _: put([]), "EMPTY_DICT": lambda _: put({}),
            "TUPLE": lambda _: put(tuple(self._since_mark())),
            "APPEND": lambda _: self._append([take()]), "APPENDS": lambda _: self._append(self._since_mark()),
            "SETITEM": lambda _: self._set([take(), take()][::-1]), "SETITEMS": lambda _: self._set(self._since_mark()),
            "NEWOBJ": lambda _: self._new(), "REDUCE": lambda _: self._reduce(), "BUILD": lambda _: self._build()}
        self._operations |= dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), put)
        self._operations |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._keep)
        self._operations |= dict.fromkeys(("BINGET", "LONG_BINGET"), lambda place: put(self._memory[place]))
        self._operations |= {f"TUPLE{count}": partial(self._tuple, count) for count in (1, 2, 3)}

    def run(self, pickled: bytes) -> Any:
        """Return what a pickle describes. Raises _Refused, and whatever comes of one that makes no sense."""
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "STOP":
                break
            if operation.name not in self._operations:
                raise _Refused(f"its data.pkl has the operation {operation.name}")
            self._operations[operation.name](argument)
        return self._stack.pop()

    def _keep(self, place: int) -> None:
        self._memory[place] = self._stack[-1]

    def _tuple(self, count: int, _: Any) -> None:
        taken = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(taken)))

    def _since_mark(self) -> list[Any]:
        taken = []
        while (top := self._stack.pop()) is not _MARK:
            taken.append(top)
        return taken[::-1]

    def _append(self, values: list[Any]) -> None:
        self._expected(list).extend(values)

    def _set(self, pairs: list[Any]) -> None:
        # Attributes are named by text; what else a dictionary holds is no module's.
        self._expected(dict).update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)
                                    if isinstance(key, str))

    def _expected(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise _Refused(f"its data.pkl adds to something that is no {kind.__name__}")
        return self._stack[-1]

    def _new(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if arguments or not name.text.startswith("__torch__"):
            raise _Refused(f"it holds {name.text}")
        self._stack.append(_Object(name.text))

    def _build(self) -> None:
        attributes = self._stack.pop()
        if not isinstance(attributes, dict):
            raise _Refused("a class of it would be put back by code, which is not run")
        self._expected(_Object).attributes = attributes

    def _reduce(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if name.text == "torch._utils _rebuild_tensor_v2":
            storage, offset, size, stride, _, _ = arguments
            if len(size) > _MOST_AXES or any(type(length) is not int for length in size):
                raise _Refused("a tensor of it has no shape")
            if math.prod(size) > max(len(storage), _MOST_REPEATED):
                raise _Refused(f"a tensor of it makes {math.prod(size)} numbers of {len(storage)}")
            made: Any = torch.as_strided(storage, size, stride, offset)
        elif name.text in _KEEPS_FIRST:
            made = arguments[0]
        elif name.text in _LEFT_OUT or name.text.startswith("__torch__"):
            made = None
        else:
            raise _Refused(f"it holds {name.text}")
        self._stack.append(made)
