"""TorchScript archives are read as `torch.jit.load` reads them, but for their code: nothing of it runs."""

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

# The classes below as the archives name them, and where their code lies.
MODULE = f"__torch__.{__name__}"
CODE = f"code/{MODULE.replace('.', '/')}.py"


class Inner(nn.Module):
    """A parameter in half precision, none where one could be, and a view as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3).half())
        self.register_parameter("bias", None)
        self.register_buffer("part", torch.randn(6)[2:5])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight.sum() + self.part.sum()


class Outer(nn.Module):
    """Modules within modules, the same one twice, shared storages, all types, and attributes that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.again = self.inner
        self.several = nn.ModuleList([Inner(), self.inner, nn.Linear(2, 2, bias=False)])
        self.named = nn.ModuleDict({"one": nn.BatchNorm1d(2), "two": nn.Identity()})
        base = torch.randn(4, 5)
        self.rows, self.tied = nn.Parameter(base[1:]), self.inner.weight
        buffers = {"turned": base.t(), "empty": torch.zeros(0), "number": torch.tensor(3), "flags": torch.ones(2) > 0,
                   "repeated": torch.ones(1).expand(5), "brain": torch.ones(3).bfloat16(), "twice": base[0].double()}
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)
        self.register_buffer("not_kept", torch.ones(2), persistent=False)
        self.plain, self.listed, self.keyed = torch.ones(2), [torch.ones(1)], {"a": torch.ones(1)}
        self.numbers, self.words, self.mixed = [[1, 2], [3]], ["a"], (1, "x", 2.5, 10**15)
        self.device, self.complex, self.by_number = torch.device("cpu"), 1j, {1: 2.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for one in self.several:
            x = one(x)
        for one in self.named.values():
            x = one(x)
        return (self.again(self.inner(x)) + self.rows.sum() + self.tied.sum() + self.turned.sum() + self.plain.sum()
                + self.listed[0] + self.keyed["a"] + self.numbers[0][0] + len(self.words) + self.mixed[0]
                + self.by_number[1] + torch.tensor([1.0, 2.0]))


class Armed(nn.Module):
    """Its code makes the file `place` when `torch.jit.load` puts it back."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.weight, self.place = nn.Parameter(torch.ones(2)), place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.weight, self.place, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.weight, self.place, self.training = state
        self.weight = self.weight + torch.from_file(self.place, shared=True, size=2)


class Dressed(nn.Module):
    """The same with a state as a module without code of its own has it: a dictionary."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.weight, self.place = torch.ones(2), place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    @torch.jit.export
    def __setstate__(self, state: dict[str, torch.Tensor]) -> None:
        self.weight, self.place, self.training = state["weight"], "PLACE", False
        self.weight = self.weight + torch.from_file("PLACE", shared=True, size=2)


def _saved(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def _changed(path: Path, other: Path, members: dict[str, bytes]) -> Path:
    """Write an archive with other members."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for told in source.infolist():
            target.writestr(told.filename, members.get(told.filename.partition("/")[2], source.read(told)))
    return other


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Return the archive of one small module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _saved(Inner(), tmp_path_factory.mktemp("archive") / "small.pt")


def _named(pickled: bytes) -> bytes:
    return pickled.replace(b"c__torch__\n", f"c{MODULE}\n".encode())


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return list(ours) == list(theirs) and all(
        (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        and one.contiguous().flatten().view(torch.uint8).equal(other.contiguous().flatten().view(torch.uint8))
        for one, other in ((ours[name], theirs[name]) for name in theirs))


@pytest.mark.parametrize("kind", ["scripted", "half", "traced", "frozen"])
def test_it_gives_what_torch_jit_load_gives_bit_for_bit(tmp_path, kind):
    path = tmp_path / "net.pt"
    if kind in ("scripted", "half"):
        _saved(Outer().half() if kind == "half" else Outer(), path)
    else:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).eval()
        made = torch.jit.trace(net, torch.ones(1, 3, 8, 8)) if kind == "traced" else torch.jit.freeze(
            torch.jit.script(net))
        made.save(str(path))
    theirs = torch.jit.load(str(path)).state_dict()
    assert is_torchscript(path) and _same(read_torchscript(path), theirs)
    assert len(theirs) == {"scripted": 24, "half": 24, "traced": 7, "frozen": 0}[kind]


def test_shared_storages_stay_shared(tmp_path):
    found = read_torchscript(_saved(Outer(), tmp_path / "net.pt"))
    assert found["rows"].untyped_storage().data_ptr() == found["turned"].untyped_storage().data_ptr()
    assert found["tied"].data_ptr() == found["several.1.weight"].data_ptr() == found["inner.weight"].data_ptr()


def test_code_by_which_an_archive_would_be_put_back_is_refused_and_not_run(tmp_path):
    place = tmp_path / "it ran"
    plain = _saved(Dressed("-"), tmp_path / "plain.pt")
    with zipfile.ZipFile(plain) as opened:
        code = opened.read(f"plain/{CODE}")
    assert b"PLACE" in code
    dressed = _changed(plain, tmp_path / "dressed.pt", {CODE: code.replace(b"PLACE", bytes(place))})
    for path in (_saved(Armed(str(place)), tmp_path / "armed.pt"), dressed):
        place.unlink(missing_ok=True)
        with pytest.raises(BadData, match="put back by code, which is not run"):
            read_torchscript(path)
        with pytest.raises(BadData, match="put back by code, which is not run"):
            load_clip(find_clip(str(path), None), device=torch.device("cpu"))
        assert not place.exists()
        torch.jit.load(str(path))
        assert place.exists(), "the archive is not armed, so the test shows nothing"


def _call(place: Path, name: str, how: bytes) -> bytes:
    """Return a pickle that calls `name` with a path."""
    told = str(place).encode()
    text = b"X" + len(told).to_bytes(4, "little") + told
    return {b"R": b"\x80\x02c" + name.encode() + b"\n" + text + b"\x85R.",
            b"i": b"\x80\x02(" + text + b"i" + name.encode() + b"\n.",
            b"o": b"\x80\x02(c" + name.encode() + b"\n" + text + b"o.",
            b"\x81": b"\x80\x02c" + name.encode() + b"\n" + text + b"\x85\x81.",
            b"\x93": pickle.dumps(name.split("\n")[0])[:-1] + pickle.dumps(name.split("\n")[1])[2:-1] + b"\x93"
                     + text + b"\x85R."}[how]


@pytest.mark.parametrize("how", [b"R", b"i", b"o", b"\x81", b"\x93"], ids=["reduce", "inst", "obj", "newobj", "stack"])
@pytest.mark.parametrize("name", ["os\nmkdir", "posix\nmkdir", "pathlib\nPath", "torch.storage\n_load_from_bytes",
                                  "torch._utils\n_rebuild_tensor", "__torch__.Inner\n__init__"])
def test_nothing_that_a_pickle_names_is_called(tmp_path, small, name, how):
    place = tmp_path / "it ran"
    armed = _changed(small, tmp_path / "armed.pt", {"data.pkl": _call(place, name, how)})
    with pytest.raises(BadData, match=r"armed\.pt: no TorchScript file that can be read"):
        read_torchscript(armed)
    assert not place.exists()
    if (name, how) == ("os\nmkdir", b"R"):
        pickle.loads(_call(place, name, how))
        assert place.exists(), "the pickle is not armed, so the test shows nothing"


def _tensor(count: bytes, length: bytes = b"K\x03", dtype: bytes = b"Half") -> bytes:
    """Return a pickle of a tensor of this length, of the six numbers of data/0."""
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n" + dtype + b"Storage\nX\x01\0\0\0"
            b"0X\x03\0\0\0cpu" + count + b"tQK\0(" + length + b"t(K\x01t\x89}tR.")


@pytest.mark.parametrize(("pickled", "told"), [
    (b"\x80\x02c__torch__\nInner\n)\x81}(X\x01\0\0\0ah\x09ub.", "make no sense"),  # nothing at 9
    (b"\x80\x02c__torch__\nInner\n)\x81}(X\x01\0\0\0aK\x01u.", "make no sense|no module"),
    (b"\x80\x02c__torch__\nOther\n)\x81}b.", "its code lacks the class Other"),
    (b"\x80\x02c__torch__.none\nInner\n)\x81}b.", "none.py"),
    (b"\x80\x02c__torch__\nInner\nq\0)\x81q\x01}(X\x01\0\0\0ah\x01ub.", "make no sense: RecursionError"),
    (b"\x80\x02K\x05}b.", "adds to something that is no _Object"), (b"\x80\x02}.", "no module"), (b"", "make no sense"),
    (b"\x80\x02(X\x07\0\0\0storageX\x01\0\0\0aX\x01\0\0\0bX\x03\0\0\0cpuK\x01tQ.", "make no sense"),
    (_tensor(b"K\x02"), "data/0 has 6 numbers, not 2"), (_tensor(b"K\x06", b"K\x07"), "make no sense: RuntimeError"),
    (_tensor(b"K\x06", b"]"), "has no shape"), (_tensor(b"K\x06", b"J\0\0\0\x02"), "makes 33554432 numbers of 6"),
    (_tensor(b"K\x06", dtype=b"Quantized"), "it holds torch QuantizedStorage")],
    ids=lambda value: value if isinstance(value, str) else "pickle")
def test_pickles_that_describe_nothing(tmp_path, small, pickled, told):
    with pytest.raises(BadData, match=told) as caught:
        read_torchscript(_changed(small, tmp_path / "odd.pt", {"data.pkl": _named(pickled)}))
    assert "\n" not in str(caught.value)


def test_modules_that_stand_in_more_places_than_anybody_waits_for(tmp_path, small):
    body = b"\x80\x02c__torch__\nInner\nq\0)\x81}bq\x01"
    for place in range(1, 60):
        body += b"h\0)\x81}(X\x01\0\0\0ah%cX\x01\0\0\0bh%cubq%c" % (place, place, place + 1)
    with pytest.raises(BadData, match="more than 1000000 names"):
        read_torchscript(_changed(small, tmp_path / "many.pt", {"data.pkl": _named(body + b".")}))


def test_a_flipped_byte_is_told_or_changes_nothing(tmp_path, small):
    whole, kept, told = small.read_bytes(), read_torchscript(small), 0
    path = tmp_path / "flipped.pt"
    for place in range(0, len(whole), 13):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        try:
            assert _same(read_torchscript(path), kept), place
        except BadData as error:
            told += 1
            assert "\n" not in str(error) and "flipped.pt" in str(error)
    assert told > 40
    for length in range(0, len(whole), len(whole) // 9):
        path.write_bytes(whole[:length])
        assert not is_torchscript(path)
        with pytest.raises(BadData):
            read_torchscript(path)
