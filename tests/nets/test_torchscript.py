"""TorchScript archives are read like `torch.jit.load` does, but none of their code runs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.errors import BadData
from stages.nets.clip import find_clip, load_clip
from stages.nets.torchscript import is_torchscript, read_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

# How the archives name the classes below, and the archive member with their code.
MODULE = f"__torch__.{__name__}"
CODE = f"code/{MODULE.replace('.', '/')}.py"


class Inner(nn.Module):
    """A module with a parameter in half precision, a parameter that is None, and a view as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3).half())
        self.register_parameter("bias", None)
        self.register_buffer("part", torch.randn(6)[2:5])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight.sum() + self.part.sum()


class Outer(nn.Module):
    """Nested modules, one of them twice, shared storages, all dtypes, and attributes that are not weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.same_inner = self.inner
        self.several = nn.ModuleList([Inner(), self.inner, nn.Linear(2, 2, bias=False)])
        self.keyed_modules = nn.ModuleDict({"one": nn.BatchNorm1d(2), "two": nn.Identity()})
        base = torch.randn(4, 5)
        self.rows, self.tied = nn.Parameter(base[1:]), self.inner.weight
        buffers = {"transposed": base.t(), "empty": torch.zeros(0), "number": torch.tensor(3),
                   "flags": torch.ones(2) > 0, "repeated": torch.ones(1).expand(5),
                   "brain": torch.ones(3).bfloat16(), "twice": base[0].double()}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)
        self.register_buffer("not_persistent", torch.ones(2), persistent=False)
        self.plain, self.listed, self.keyed = torch.ones(2), [torch.ones(1)], {"a": torch.ones(1)}
        self.numbers, self.words, self.mixed = [[1, 2], [3]], ["a"], (1, "x", 2.5, 10**15)
        self.device, self.complex, self.by_number = torch.device("cpu"), 1j, {1: 2.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.several:
            x = module(x)
        for module in self.keyed_modules.values():
            x = module(x)
        return (self.same_inner(self.inner(x)) + self.rows.sum() + self.tied.sum() + self.transposed.sum()
                + self.plain.sum() + self.listed[0] + self.keyed["a"] + self.numbers[0][0] + len(self.words)
                + self.mixed[0] + self.by_number[1] + torch.tensor([1.0, 2.0]))


class RunsCode(nn.Module):
    """A module whose code creates the file `marker` when `torch.jit.load` restores it."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.weight, self.marker = nn.Parameter(torch.ones(2)), marker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.weight, self.marker, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight, self.marker, self.training = state
        self.weight = self.weight + torch.from_file(self.marker, shared=True, size=2)


class RunsCodeWithDictState(nn.Module):
    """The same, but its state is a dictionary, like that of a module without such code."""

    def __init__(self, marker: str) -> None:
        super().__init__()
        self.weight, self.marker = torch.ones(2), marker

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    @torch.jit.export
    def __setstate__(self, state: dict[str, torch.Tensor]) -> None:
        self.weight, self.marker, self.training = state["weight"], "MARKER", False
        self.weight = self.weight + torch.from_file("MARKER", shared=True, size=2)


def _save(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def _replace_members(path: Path, copy: Path, members: dict[str, bytes]) -> Path:
    """Write a copy of an archive with other contents of some members."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, members.get(member.filename.partition("/")[2], source.read(member)))
    return copy


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory) -> Path:
    """Return the archive of one small module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _save(Inner(), tmp_path_factory.mktemp("archive") / "small.pt")


def _add_module_name(pickled: bytes) -> bytes:
    """Replace the short module name in a pickle by the one of this file."""
    return pickled.replace(b"c__torch__\n", f"c{MODULE}\n".encode())


def _are_identical(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Return whether names, dtypes, shapes, strides and bits are equal."""
    return list(tensors) == list(expected) and all(
        (tensor.dtype, tensor.shape, tensor.stride()) == (other.dtype, other.shape, other.stride())
        and tensor.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8))
        for tensor, other in ((tensors[name], expected[name]) for name in expected))


@pytest.mark.parametrize("kind", ["scripted", "half", "traced", "frozen"])
def test_tensors_equal_those_of_torch_jit_load_bit_for_bit(tmp_path, kind):
    path = tmp_path / "net.pt"
    if kind in ("scripted", "half"):
        _save(Outer().half() if kind == "half" else Outer(), path)
    else:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).eval()
        module = torch.jit.trace(net, torch.ones(1, 3, 8, 8)) if kind == "traced" else torch.jit.freeze(
            torch.jit.script(net))
        module.save(str(path))
    expected = torch.jit.load(str(path)).state_dict()
    assert is_torchscript(path) and _are_identical(read_torchscript(path), expected)
    assert len(expected) == {"scripted": 24, "half": 24, "traced": 7, "frozen": 0}[kind]


def test_shared_storages_stay_shared(tmp_path):
    tensors = read_torchscript(_save(Outer(), tmp_path / "net.pt"))
    assert tensors["rows"].untyped_storage().data_ptr() == tensors["transposed"].untyped_storage().data_ptr()
    assert tensors["tied"].data_ptr() == tensors["several.1.weight"].data_ptr() == tensors["inner.weight"].data_ptr()


def test_archive_that_needs_code_to_restore_it_is_an_error_and_not_run(tmp_path):
    marker = tmp_path / "it ran"
    template = _save(RunsCodeWithDictState("-"), tmp_path / "plain.pt")
    with zipfile.ZipFile(template) as archive:
        code = archive.read(f"plain/{CODE}")
    assert b"MARKER" in code
    with_dict = _replace_members(template, tmp_path / "dict.pt", {CODE: code.replace(b"MARKER", bytes(marker))})
    for path in (_save(RunsCode(str(marker)), tmp_path / "code.pt"), with_dict):
        marker.unlink(missing_ok=True)
        with pytest.raises(BadData, match="can only be restored by running its code"):
            read_torchscript(path)
        with pytest.raises(BadData, match="can only be restored by running its code"):
            load_clip(find_clip(str(path), None), device=torch.device("cpu"))
        assert not marker.exists()
        torch.jit.load(str(path))
        assert marker.exists(), "torch.jit.load does not run the code either, so the test shows nothing"


def _pickle_call(path: Path, name: str, opcode: bytes) -> bytes:
    """Return a pickle that calls `name` with a path by `opcode`."""
    argument = str(path).encode()
    text = b"X" + len(argument).to_bytes(4, "little") + argument
    return {b"R": b"\x80\x02c" + name.encode() + b"\n" + text + b"\x85R.",
            b"i": b"\x80\x02(" + text + b"i" + name.encode() + b"\n.",
            b"o": b"\x80\x02(c" + name.encode() + b"\n" + text + b"o.",
            b"\x81": b"\x80\x02c" + name.encode() + b"\n" + text + b"\x85\x81.",
            b"\x93": pickle.dumps(name.split("\n")[0])[:-1] + pickle.dumps(name.split("\n")[1])[2:-1] + b"\x93"
                     + text + b"\x85R."}[opcode]


@pytest.mark.parametrize("opcode", [b"R", b"i", b"o", b"\x81", b"\x93"],
                         ids=["reduce", "inst", "obj", "newobj", "stack"])
@pytest.mark.parametrize("name", ["os\nmkdir", "posix\nmkdir", "pathlib\nPath", "torch.storage\n_load_from_bytes",
                                  "torch._utils\n_rebuild_tensor", "__torch__.Inner\n__init__"])
def test_nothing_that_a_pickle_names_is_called(tmp_path, small_archive, name, opcode):
    marker = tmp_path / "it ran"
    pickled = _pickle_call(marker, name, opcode)
    path = _replace_members(small_archive, tmp_path / "code.pt", {"data.pkl": pickled})
    with pytest.raises(BadData, match=r"code\.pt: the TorchScript file cannot be read"):
        read_torchscript(path)
    assert not marker.exists()
    if (name, opcode) == ("os\nmkdir", b"R"):
        pickle.loads(pickled)
        assert marker.exists(), "the pickle does not run code, so the test shows nothing"


def _pickle_tensor(count: bytes, length: bytes = b"K\x03", dtype: bytes = b"Half") -> bytes:
    """Return a pickle of a tensor of `length` elements on data/0, whose six numbers it declares as `count`."""
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n" + dtype + b"Storage\nX\x01\0\0\0"
            b"0X\x03\0\0\0cpu" + count + b"tQK\0(" + length + b"t(K\x01t\x89}tR.")


@pytest.mark.parametrize(("pickled", "message"), [
    (b"\x80\x02c__torch__\nInner\n)\x81}(X\x01\0\0\0ah\x09ub.", "are invalid"),  # nothing at 9
    (b"\x80\x02c__torch__\nInner\n)\x81}(X\x01\0\0\0aK\x01u.", "are invalid|no module"),
    (b"\x80\x02c__torch__\nOther\n)\x81}b.", "its code lacks the class Other"),
    (b"\x80\x02c__torch__.none\nInner\n)\x81}b.", "none.py"),
    (b"\x80\x02c__torch__\nInner\nq\0)\x81q\x01}(X\x01\0\0\0ah\x01ub.", "are invalid: RecursionError"),
    (b"\x80\x02K\x05}b.", "adds to something that is not a ScriptObject"),
    (b"\x80\x02}.", "no module"), (b"", "are invalid"),
    (b"\x80\x02(X\x07\0\0\0storageX\x01\0\0\0aX\x01\0\0\0bX\x03\0\0\0cpuK\x01tQ.", "are invalid"),
    (_pickle_tensor(b"K\x02"), "data/0 has 6 numbers, not 2"),
    (_pickle_tensor(b"K\x06", b"K\x07"), "are invalid: RuntimeError"),
    (_pickle_tensor(b"K\x06", b"]"), "has no shape"),
    (_pickle_tensor(b"K\x06", b"J\0\0\0\x02"), "expands 6 numbers to 33554432"),
    (_pickle_tensor(b"K\x06", dtype=b"Quantized"), "it holds torch QuantizedStorage")],
    ids=lambda value: value if isinstance(value, str) else "pickle")
def test_invalid_pickle_is_an_error(tmp_path, small_archive, pickled, message):
    with pytest.raises(BadData, match=message) as caught:
        read_torchscript(_replace_members(small_archive, tmp_path / "odd.pt", {"data.pkl": _add_module_name(pickled)}))
    assert "\n" not in str(caught.value)


def test_number_of_names_is_limited(tmp_path, small_archive):
    body = b"\x80\x02c__torch__\nInner\nq\0)\x81}bq\x01"
    for index in range(1, 60):
        body += b"h\0)\x81}(X\x01\0\0\0ah%cX\x01\0\0\0bh%cubq%c" % (index, index, index + 1)
    with pytest.raises(BadData, match="more than 1000000 names"):
        read_torchscript(_replace_members(
            small_archive, tmp_path / "many.pt", {"data.pkl": _add_module_name(body + b".")}))


def test_flipped_byte_is_an_error_or_changes_nothing(tmp_path, small_archive):
    whole, expected, num_errors = small_archive.read_bytes(), read_torchscript(small_archive), 0
    path = tmp_path / "flipped.pt"
    for offset in range(0, len(whole), 13):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1:])
        try:
            assert _are_identical(read_torchscript(path), expected), offset
        except BadData as error:
            num_errors += 1
            assert "\n" not in str(error) and "flipped.pt" in str(error)
    assert num_errors > 40
    for length in range(0, len(whole), len(whole) // 9):
        path.write_bytes(whole[:length])
        assert not is_torchscript(path)
        with pytest.raises(BadData):
            read_torchscript(path)
