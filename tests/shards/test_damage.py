"""Whatever is wrong with a shard is one line that names the file; never other contents, never a crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from shards.flips import everything
from shards.samples import IDS, SMALL_FILES, contents
from stages.errors import BadData, MissingInput, WsssError
from stages.shards import Shard, check_shard, write_shard
from waiting import PATIENCE

_FLIPS = Path(__file__).with_name("flips.py")


@pytest.fixture
def cams(tmp_path: Path) -> Path:
    """Return a shard of kind cams with several items."""
    write_shard(tmp_path / "cams.h5", contents("cams", refused=IDS[3:4]))
    return tmp_path / "cams.h5"


def _faults(path: Path) -> list[str]:
    told = list(check_shard(path))
    assert all(isinstance(error, WsssError) and "\n" not in str(error) for error in told)
    assert all(str(path) in str(error) for error in told)
    return [f"{error.code} {error}" for error in told]


def _one_line(path: Path) -> str:
    with pytest.raises(WsssError) as told:
        everything(path)
    assert "\n" not in str(told.value) and str(path) in str(told.value)
    return f"{told.value.code} {told.value}"


def _sweep(path: Path, mask: int, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Flip bytes in as many processes as `steps` (first, stride); return (errors, same contents) of each."""
    started = [subprocess.Popen([sys.executable, _FLIPS, path, str(first), str(stride), str(mask)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for first, stride in steps]
    ended = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in started]
    for out, progress, code in ended:
        assert code == 0, f"ended {code} at byte {progress.split()[-1:]}: {out}"
    return [tuple(map(int, out.split())) for out, _, _ in ended]  # type: ignore[misc]


def test_every_third_byte_flipped_gives_an_error_or_the_same_contents(tmp_path: Path) -> None:
    path = tmp_path / "masks.h5"
    write_shard(path, contents("masks", ("a",), provenance=({},)))
    counts = _sweep(path, 0xFF, [(0, 6), (3, 6)])
    # What stays the same is room that HDF5 has set aside and not used; the rest is under a checksum.
    assert sum(errors + same for errors, same in counts) == -(-path.stat().st_size // 3)
    assert sum(errors for errors, _ in counts) > 0.13 * path.stat().st_size


@pytest.mark.parametrize("kind", ["index", "cams", "masks"])
def test_flipped_bytes_of_larger_shards(tmp_path: Path, kind: str) -> None:
    write_shard(tmp_path / f"{kind}.h5", contents(kind))
    _sweep(tmp_path / f"{kind}.h5", 0x01, [(3, 142), (74, 142)])


@pytest.mark.parametrize("kind", SMALL_FILES)
def test_flipped_bytes_of_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    """A sample; `make test-damage` flips every byte."""
    path = SMALL_FILES[kind](tmp_path)
    _sweep(path, 0x10, [(7, path.stat().st_size // 100)])


def test_check_finds_a_flip_in_the_data_and_says_in_which_item(cams: Path) -> None:
    with h5py.File(cams, "r", locking=False) as file:
        place = file["items/2007_000032/class_ids"].id.get_chunk_info(0) if file[
            "items/2007_000032/class_ids"].size else file["items/a%2Fb/cam"].id.get_chunk_info(0)
    data = bytearray(cams.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 0x10
    broken = cams.with_name("broken.h5")
    broken.write_bytes(data)
    told = _faults(broken)
    assert len(told) == 1 and "item a/b" in told[0] and told[0].startswith("65 ")
    assert Shard(broken).item("~").id == "~"  # the others can still be read


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.6, 0.9, 0.9999])
def test_cut_short(cams: Path, share: float) -> None:
    broken = cams.with_name("short.h5")
    broken.write_bytes(cams.read_bytes()[:int(share * cams.stat().st_size)])
    assert _one_line(broken).startswith("65 ")
    assert len(_faults(broken)) == 1
    assert ("cut short" in _one_line(broken)) == (share >= 0.01)


def test_a_text_file_a_folder_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.h5").write_text("no shard\n")
    assert _one_line(tmp_path / "notes.h5").startswith("65 ") and "is not a shard" in _one_line(tmp_path / "notes.h5")
    assert _one_line(tmp_path).startswith("66 ")
    assert _one_line(tmp_path / "nowhere.h5").startswith("66 ")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = [1]
    assert "not a shard of wsss" in _one_line(tmp_path / "other.h5")


def _set(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def _drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def _put(name: str, data: object) -> Callable[[h5py.File], None]:
    def put(file: h5py.File) -> None:
        del file[name]
        file[name] = data
    return put


@pytest.mark.parametrize(("change", "told"), [
    (_set("format", "other"), "not a shard of wsss"),
    (_set("format_version", "1.1"), r"format 1\.1; this wsss reads up to 1\.0; install a newer wsss"),
    (_set("format_version", "10.0"), r"format 10\.0"),
    (_set("format_version", "new"), "can't be read"),
    (_set("kind", "depth"), "unknown kind 'depth'"),
    (_set("part", 1), "part 1 of 1"),
    (_set("part", "one"), "can't be read"),
    (_set("provenance", "{"), "can't be read"),
    (_set("provenance", "[1]"), "provenance"),
    (lambda file: file.attrs.__delitem__("background"), "lacks the attribute background"),
    (lambda file: file.attrs.__delitem__("digest"), "lacks the attribute digest"),
    (_drop("ids"), "lacks the dataset ids"),
    (_drop("items"), "item 2007_000032"),
    (_drop("items/a%2Fb"), "item a/b"),
    (_drop("items/a%2Fb/cam"), "item a/b: lacks the dataset cam"),
    (_put("ids", [1, 2, 3]), "ids is <i8 with 1 axes, not S with 1"),
    (_put("error_messages", np.array([b"one", b"two"])), "can't be read"),
    (_put("items/a%2Fb/cam", np.zeros((1, 2, 3))), "item a/b: cam is <f8 with 3 axes, not <f2 or |u1 with 3"),
    (_put("items/a%2Fb/cam", np.zeros((1, 0, 3), np.float16)), "item a/b: its cam has 0x3 pixels"),
    (_put("items/a%2Fb/class_ids", np.zeros((1, 1), np.uint16)), "item a/b: class_ids is <u2 with 2 axes"),
    (lambda file: file["items/a%2Fb"].attrs.__delitem__("covers"), "item a/b: lacks the attribute covers"),
])
def test_a_shard_that_is_not_as_its_kind_has_it(cams: Path, change: Callable, told: str) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        change(file)
    line = _one_line(cams)
    assert line.startswith("65 ")
    assert told.replace("\\", "") in line
    assert any(told.replace("\\", "") in one for one in _faults(cams))


@pytest.mark.parametrize(("change", "told"), [
    (_drop("items"), "can't be read"),
    (_drop("items/a%2Fb"), "item a/b: can't be read"),
    (_drop("items/a%2Fb/cam"), "item a/b: lacks the dataset cam"),
    (_put("items/a%2Fb/cam", np.zeros((1, 2, 3))), "item a/b: cam is <f8 with 3 axes, not <f2 or |u1 with 3"),
])
def test_one_dataset_of_every_item_of_such_a_shard(cams: Path, change: Callable, told: str) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        change(file)
    with pytest.raises(BadData) as error:
        list(Shard(cams).each("cam"))
    assert told in str(error.value) and str(cams) in str(error.value)


def test_what_a_reader_does_not_know_is_ignored(cams: Path) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        group = file["items/a%2Fb"]
        group["more"], group["nothing"], group["words"] = 5, h5py.Empty("f4"), ["of", "any length"]
        group.attrs["nothing"], group.attrs["word"] = h5py.Empty("f4"), "of any length ü"
    item = Shard(cams).item("a/b")
    assert item.datasets["more"] == 5 and item.datasets["words"].tolist() == [b"of", b"any length"]
    assert item.datasets["nothing"].size == item.attrs["nothing"].size == 0
    assert item.attrs["word"] == "of any length ü"


def test_check_compares_with_the_digest_and_looks_for_what_does_not_belong(cams: Path) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        file["items/~"].attrs["height"] = 9
    assert [line for line in _faults(cams) if "digest" in line] == _faults(cams) != []
    with h5py.File(cams, "r+", locking=False) as file:
        file.create_group("items/stranger")
        ids = file["ids"][()]
        ids[-1] = ids[0]
        file["ids"][()] = ids
    told = " | ".join(_faults(cams))
    assert "items/stranger has no id" in told and "items/~ has no id" in told
    assert "the id 2007_000032 is there" in told


def test_a_shard_of_another_kind(cams: Path) -> None:
    with pytest.raises(BadData, match=r"cams\.h5: holds cams, not index; give a shard of kind index"):
        Shard(cams, "index")
    with pytest.raises(BadData, match="holds cams, not index or masks"):
        Shard(cams, ("index", "masks"))
    assert Shard(cams, ("cams", "masks")).kind == "cams"
    with pytest.raises(MissingInput):
        Shard(cams.with_name("none.h5"), "index")
