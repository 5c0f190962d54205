"""Read the tensors of TorchScript archives, the format of OpenAI's released models, without running their code.

Such a file is a zip of `data.pkl` (the modules and their attributes), `data/` (the bytes of the tensors) and `code/`.
`torch.jit.load` runs the archive's own `__setstate__`. Here a small interpreter executes the few pickle operations that
PyTorch writes to `data.pkl`: it never imports or calls a name, and reads the names of parameters and buffers from the
code as text.
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
from stages.nets.weight_checks import check_weights_finite

_DTYPES = {f"torch {name}Storage": dtype for name, dtype in {
    "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32, "Double": torch.float64,
    "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64, "Byte": torch.uint8,
    "Bool": torch.bool}.items()}
# Only tensors are needed: wrapped lists are replaced by their first argument, other objects by None.
_RETURNS_FIRST_ARGUMENT = {f"torch.jit._pickle {name}" for name in (
    "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")}
_IGNORED_CALLS = {"collections OrderedDict", "torch device", "builtins complex"}
_MAX_MEMBER_BYTES, _MAX_NAMES, _MAX_EXPANDED_NUMBERS, _MAX_AXES = 1 << 26, 1_000_000, 1 << 24, 64
_MARK = object()


@dataclass(frozen=True)
class _GlobalName:
    """A global that the pickle refers to, as the text "module name"."""

    text: str


@dataclass(eq=False)
class _ScriptObject:
    """An object of one of the archive's classes, with its attributes."""

    class_name: str
    attributes: dict[str, Any] = field(default_factory=dict)


class _InvalidArchive(Exception):
    """The archive is rejected, for the reason in the message."""


def is_torchscript(file: Path) -> bool:
    """Return whether a file is a TorchScript archive with its code, the format of OpenAI's released models."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except Exception:
        return False


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Return parameters and buffers by name, on the CPU, as `torch.jit.load(file).state_dict()` does.

    Raises BadData for a file that is cut short or damaged, for one whose modules only code can restore, and for values
    that are not finite.
    """
    try:
        with zipfile.ZipFile(file) as zip_file:
            archive = _Archive(zip_file, file.stat().st_size)
            root = _PickleInterpreter(archive.load_storage).run(archive.read_member("data.pkl"))
            tensors = archive.collect_tensors(root)
    except Exception as error:
        reason = (error.args[0] if isinstance(error, _DESCRIPTIVE_ERRORS)
                  else f"its contents are invalid: {type(error).__name__}")
        raise BadData(f"the TorchScript file cannot be read ({str(reason)[:120]})", "Download or copy it again",
                      where=str(file)) from None
    check_weights_finite(tensors, str(file))
    return tensors


def detect_gelu(file: Path) -> str:
    """Return which GELU the code of an archive computes, "quick" (x sigmoid(1.702 x)) or "exact"; "" if unknown.

    The code is searched as text. A CLIP has no other sigmoid.
    """
    try:
        with zipfile.ZipFile(file) as zip_file:
            archive = _Archive(zip_file, file.stat().st_size)
            sources = [archive.read_member(name) for name in archive.list_code_names()]
    except Exception:
        return ""
    is_exact, is_quick = (any(re.search(pattern, source) for source in sources)
                          for pattern in (rb"\bgelu\(", rb"\bsigmoid\("))
    return "" if is_exact == is_quick else "exact" if is_exact else "quick"


# Errors whose message is fit for the user.
_DESCRIPTIVE_ERRORS = (_InvalidArchive, zipfile.BadZipFile)


class _Archive:
    """The members of an archive; all storages together are at most as large as the file."""

    def __init__(self, zip_file: zipfile.ZipFile, size: int) -> None:
        self._zip_file, self._num_bytes_left, self._num_names_seen = zip_file, size, 0
        self._top_folder = next((posixpath.dirname(name) for name in zip_file.namelist()
                                 if posixpath.basename(name) == "data.pkl"), "")
        self._storages: dict[tuple[str, str], Tensor] = {}
        self._tensor_names: dict[str, tuple[tuple[str, ...], tuple[str, ...]] | None] = {}
        has_byte_order = f"{self._top_folder}/byteorder" in zip_file.namelist()
        byte_order = self.read_member("byteorder").decode() if has_byte_order else sys.byteorder
        if byte_order != sys.byteorder:
            raise _InvalidArchive(f"its numbers are {byte_order}-endian")

    def read_member(self, name: str) -> bytes:
        """Return the bytes of a member, which may be compressed."""
        with self._zip_file.open(self._get_member_info(name)) as member:
            data = member.read(_MAX_MEMBER_BYTES + 1)
        if len(data) > _MAX_MEMBER_BYTES:
            raise _InvalidArchive(f"{name} is longer than {_MAX_MEMBER_BYTES} bytes")
        return data

    def list_code_names(self) -> list[str]:
        """Return the names of the members that hold code."""
        prefix = f"{self._top_folder}/"
        return [name.removeprefix(prefix) for name in self._zip_file.namelist()
                if name.startswith(f"{prefix}code/") and name.endswith(".py")]

    def _get_member_info(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._zip_file.getinfo(f"{self._top_folder}/{name}")
        except KeyError:
            raise _InvalidArchive(f"it has no member {name}") from None

    def load_storage(self, persistent_id: Any) -> Tensor:
        """Return the numbers (n,) of a persistent id ("storage", type, key, device, n)."""
        kind, dtype, key, _, length = persistent_id
        if kind != "storage" or type(key) is not str or type(length) is not int or dtype.text not in _DTYPES:
            raise _InvalidArchive(f"it holds {dtype.text}")
        if (dtype.text, key) not in self._storages:
            self._storages[dtype.text, key] = self._read_numbers(f"data/{key}", _DTYPES[dtype.text])
        storage = self._storages[dtype.text, key]
        if len(storage) != length:
            raise _InvalidArchive(f"data/{key} has {len(storage)} numbers, not {length}")
        return storage

    def _read_numbers(self, name: str, dtype: torch.dtype) -> Tensor:
        member_info = self._get_member_info(name)
        self._num_bytes_left -= member_info.file_size
        if member_info.compress_type != zipfile.ZIP_STORED or self._num_bytes_left < 0:
            raise _InvalidArchive(f"{name} is not stored uncompressed, once")
        data = bytearray(member_info.file_size)
        with self._zip_file.open(member_info) as member:
            if member.readinto(data) != len(data):
                raise _InvalidArchive(f"{name} is cut short")
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    def collect_tensors(self, root: Any) -> dict[str, Tensor]:
        """Return the tensors below the outermost module, by name."""
        if not isinstance(root, _ScriptObject) or self._get_tensor_names(root) is None:
            raise _InvalidArchive("it is no module")
        return dict(self._iterate_tensors(root, ""))

    def _iterate_tensors(self, module: _ScriptObject, prefix: str) -> Iterator[tuple[str, Tensor]]:
        # Modules can be shared, so that a short file may describe an endless number of names.
        self._num_names_seen += 1 + len(module.attributes)
        if self._num_names_seen > _MAX_NAMES:
            raise _InvalidArchive(f"it has more than {_MAX_NAMES} names")
        for names in self._get_tensor_names(module) or ():
            for name, value in module.attributes.items():
                if name in names and isinstance(value, Tensor):
                    yield prefix + name, value
        for name, value in module.attributes.items():
            if isinstance(value, _ScriptObject) and self._get_tensor_names(value) is not None:
                yield from self._iterate_tensors(value, f"{prefix}{name}.")

    def _get_tensor_names(self, script_object: _ScriptObject) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Return the names of the parameters and buffers of an object's class; None if it is not a module."""
        class_name = script_object.class_name
        if class_name not in self._tensor_names:
            self._tensor_names[class_name] = self._parse_class(*class_name.split(" "))
        return self._tensor_names[class_name]

    def _parse_class(self, module: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        code = self.read_member(f"code/{module.replace('.', '/')}.py").decode()
        match = re.search(rf"^class {re.escape(name)}(?:\((\w*)\))?:\n((?:[ \t].*\n|\n)*)", code, re.MULTILINE)
        if match is None:
            raise _InvalidArchive(f"its code lacks the class {name}")
        base_class, body = match[1], match[2]
        if re.search(r"^  def __setstate__\(", body, re.MULTILINE):
            raise _InvalidArchive(f"its class {name} can only be restored by running its code")
        lists = (re.search(rf"^  {attribute} = \[.*\]$", body, re.MULTILINE)
                 for attribute in ("__parameters__", "__buffers__"))
        parameters, buffers = (tuple(re.findall(r'"([^"]*)"', (names or [""])[0])) for names in lists)
        return (parameters, buffers) if base_class == "Module" else None


class _PickleInterpreter:
    """Executes the pickle operations that PyTorch writes to `data.pkl`, with its own stack and memo."""

    def __init__(self, load_storage: Callable[[Any], Tensor]) -> None:
        self._load_storage, self._stack, self._memo = load_storage, [], {}  # type: ignore[var-annotated]
        push, pop = self._stack.append, self._stack.pop
        self._operations: dict[str, Callable[[Any], Any]] = {
            "PROTO": lambda _: None, "MARK": lambda _: push(_MARK), "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True), "NEWFALSE": lambda _: push(False),
            "GLOBAL": lambda text: push(_GlobalName(text)), "BINPERSID": lambda _: push(self._load_storage(pop())),
            "EMPTY_TUPLE": lambda _: push(()), "EMPTY_LIST": lambda _: push([]), "EMPTY_DICT": lambda _: push({}),
            "TUPLE": lambda _: push(tuple(self._pop_to_mark())),
            "APPEND": lambda _: self._extend_list([pop()]), "APPENDS": lambda _: self._extend_list(self._pop_to_mark()),
            "SETITEM": lambda _: self._update_dict([pop(), pop()][::-1]),
            "SETITEMS": lambda _: self._update_dict(self._pop_to_mark()),
            "NEWOBJ": lambda _: self._create_object(), "REDUCE": lambda _: self._apply_call(),
            "BUILD": lambda _: self._set_attributes()}
        self._operations |= dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"), push)
        self._operations |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._memoise)
        self._operations |= dict.fromkeys(("BINGET", "LONG_BINGET"), lambda index: push(self._memo[index]))
        self._operations |= {f"TUPLE{length}": partial(self._create_tuple, length) for length in (1, 2, 3)}

    def run(self, pickled: bytes) -> Any:
        """Return the object that a pickle describes. Raises _InvalidArchive, or any error for an invalid pickle."""
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "STOP":
                break
            if operation.name not in self._operations:
                raise _InvalidArchive(f"its data.pkl has the operation {operation.name}")
            self._operations[operation.name](argument)
        return self._stack.pop()

    def _memoise(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _create_tuple(self, length: int, _: Any) -> None:
        values = [self._stack.pop() for _ in range(length)]
        self._stack.append(tuple(reversed(values)))

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (top := self._stack.pop()) is not _MARK:
            values.append(top)
        return values[::-1]

    def _extend_list(self, values: list[Any]) -> None:
        self._get_top(list).extend(values)

    def _update_dict(self, pairs: list[Any]) -> None:
        # Attribute names are strings; other keys belong to dictionaries that no module needs.
        self._get_top(dict).update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)
                                   if isinstance(key, str))

    def _get_top(self, expected_type: type) -> Any:
        if not isinstance(self._stack[-1], expected_type):
            raise _InvalidArchive(f"its data.pkl adds to something that is not a {expected_type.__name__.strip('_')}")
        return self._stack[-1]

    def _create_object(self) -> None:
        arguments, name = self._stack.pop(), self._stack.pop()
        if arguments or not name.text.startswith("__torch__"):
            raise _InvalidArchive(f"it holds {name.text}")
        self._stack.append(_ScriptObject(name.text))

    def _set_attributes(self) -> None:
        attributes = self._stack.pop()
        if not isinstance(attributes, dict):
            raise _InvalidArchive("one of its classes can only be restored by running its code")
        self._get_top(_ScriptObject).attributes = attributes

    def _apply_call(self) -> None:
        """Push the result of a call: a tensor, the first argument, or None for a call that is not needed."""
        arguments, name = self._stack.pop(), self._stack.pop()
        if name.text == "torch._utils _rebuild_tensor_v2":
            value: Any = self._rebuild_tensor(*arguments)
        elif name.text in _RETURNS_FIRST_ARGUMENT:
            value = arguments[0]
        elif name.text in _IGNORED_CALLS or name.text.startswith("__torch__"):
            value = None
        else:
            raise _InvalidArchive(f"it holds {name.text}")
        self._stack.append(value)

    @staticmethod
    def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        if len(size) > _MAX_AXES or any(type(length) is not int for length in size):
            raise _InvalidArchive("one of its tensors has no shape")
        if math.prod(size) > max(len(storage), _MAX_EXPANDED_NUMBERS):
            raise _InvalidArchive(f"one of its tensors expands {len(storage)} numbers to {math.prod(size)}")
        return torch.as_strided(storage, size, stride, offset)
