"""Any damage of a shard gives an error in one line that names the file, never different contents or a crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from shards.flips import read_everything
from shards.samples import IDS, SMALL_FILES, build_contents
from stages.errors import BadData, MissingInput, WsssError
from stages.shards import Shard, check_shard, write_shard
from waiting import PATIENCE

_FLIPS = Path(__file__).with_name("flips.py")


@pytest.fixture
def cams(tmp_path: Path) -> Path:
    """Return the path of a shard of kind cams with several items."""
    write_shard(tmp_path / "cams.h5", build_contents("cams", failed=IDS[3:4]))
    return tmp_path / "cams.h5"


def _check(path: Path) -> list[str]:
    errors = list(check_shard(path))
    assert all(isinstance(error, WsssError) and "\n" not in str(error) for error in errors)
    assert all(str(path) in str(error) for error in errors)
    return [f"{error.code} {error}" for error in errors]


def _read_error(path: Path) -> str:
    with pytest.raises(WsssError) as caught:
        read_everything(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return f"{caught.value.code} {caught.value}"


def _flip_bytes(path: Path, mask: int, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Flip bytes in one process for each of `steps` (first, stride); return (errors, same contents) of each."""
    processes = [subprocess.Popen([sys.executable, _FLIPS, path, str(first), str(stride), str(mask)],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for first, stride in steps]
    results = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in processes]
    for out, progress, code in results:
        assert code == 0, f"exit code {code} at byte {progress.split()[-1:]}: {out}"
    return [tuple(map(int, out.split())) for out, _, _ in results]  # type: ignore[misc]


def test_every_third_byte_flipped_gives_an_error_or_the_same_contents(tmp_path: Path) -> None:
    path = tmp_path / "masks.h5"
    write_shard(path, build_contents("masks", ("a",), provenance=({},)))
    counts = _flip_bytes(path, 0xFF, [(0, 6), (3, 6)])
    # Flips without effect hit space that HDF5 reserved but does not use; everything else has a checksum.
    assert sum(errors + same for errors, same in counts) == -(-path.stat().st_size // 3)
    assert sum(errors for errors, _ in counts) > 0.13 * path.stat().st_size


@pytest.mark.parametrize("kind", ["index", "cams", "masks"])
def test_flipped_bytes_of_larger_shards_give_an_error_or_the_same_contents(tmp_path: Path, kind: str) -> None:
    write_shard(tmp_path / f"{kind}.h5", build_contents(kind))
    _flip_bytes(tmp_path / f"{kind}.h5", 0x01, [(3, 142), (74, 142)])


@pytest.mark.parametrize("kind", SMALL_FILES)
def test_flipped_bytes_of_every_kind_of_file_give_an_error_or_the_same_contents(tmp_path: Path, kind: str) -> None:
    """Flips a sample of the bytes; `make test-damage` flips every byte."""
    path = SMALL_FILES[kind](tmp_path)
    _flip_bytes(path, 0x10, [(7, path.stat().st_size // 100)])


def test_check_names_the_item_with_a_flipped_byte(cams: Path) -> None:
    with h5py.File(cams, "r", locking=False) as file:
        chunk = file["items/2007_000032/class_ids"].id.get_chunk_info(0) if file[
            "items/2007_000032/class_ids"].size else file["items/a%2Fb/cam"].id.get_chunk_info(0)
    data = bytearray(cams.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    damaged = cams.with_name("damaged.h5")
    damaged.write_bytes(data)
    errors = _check(damaged)
    assert len(errors) == 1 and "item a/b" in errors[0] and errors[0].startswith("65 ")
    assert Shard(damaged).item("~").id == "~"  # the others can still be read


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.6, 0.9, 0.9999])
def test_truncated_shards_are_reported(cams: Path, share: float) -> None:
    truncated = cams.with_name("truncated.h5")
    truncated.write_bytes(cams.read_bytes()[:int(share * cams.stat().st_size)])
    assert _read_error(truncated).startswith("65 ")
    assert len(_check(truncated)) == 1
    assert ("is truncated" in _read_error(truncated)) == (share >= 0.01)


def test_rejects_paths_that_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "notes.h5").write_text("no shard\n")
    error = _read_error(tmp_path / "notes.h5")
    assert error.startswith("65 ") and "is not a shard" in error
    assert _read_error(tmp_path).startswith("66 ")
    assert _read_error(tmp_path / "nowhere.h5").startswith("66 ")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = [1]
    assert "not a shard of wsss" in _read_error(tmp_path / "other.h5")


def _set(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def _drop(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def _put(name: str, data: object) -> Callable[[h5py.File], None]:
    def put(file: h5py.File) -> None:
        del file[name]
        file[name] = data
    return put


@pytest.mark.parametrize(("change", "message"), [
    (_set("format", "other"), "not a shard of wsss"),
    (_set("format_version", "1.2"), r"format 1\.2 but this wsss reads up to 1\.1\. Install a newer wsss"),
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
def test_rejects_a_shard_that_does_not_match_its_kind(cams: Path, change: Callable, message: str) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        change(file)
    line = _read_error(cams)
    assert line.startswith("65 ")
    assert message.replace("\\", "") in line
    assert any(message.replace("\\", "") in error for error in _check(cams))


@pytest.mark.parametrize(("change", "message"), [
    (_drop("items"), "can't be read"),
    (_drop("items/a%2Fb"), "item a/b: can't be read"),
    (_drop("items/a%2Fb/cam"), "item a/b: lacks the dataset cam"),
    (_put("items/a%2Fb/cam", np.zeros((1, 2, 3))), "item a/b: cam is <f8 with 3 axes, not <f2 or |u1 with 3"),
])
def test_iterating_over_a_dataset_rejects_such_a_shard(cams: Path, change: Callable, message: str) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        change(file)
    with pytest.raises(BadData) as caught:
        list(Shard(cams).iterate_datasets("cam"))
    assert message in str(caught.value) and str(cams) in str(caught.value)


def test_ignores_unknown_datasets_and_attributes(cams: Path) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        group = file["items/a%2Fb"]
        group["more"], group["nothing"], group["words"] = 5, h5py.Empty("f4"), ["of", "any length"]
        group.attrs["nothing"], group.attrs["word"] = h5py.Empty("f4"), "of any length ü"
    item = Shard(cams).item("a/b")
    assert item.datasets["more"] == 5 and item.datasets["words"].tolist() == [b"of", b"any length"]
    assert item.datasets["nothing"].size == item.attrs["nothing"].size == 0
    assert item.attrs["word"] == "of any length ü"


def test_check_compares_the_digest_and_finds_unknown_items_and_duplicate_ids(cams: Path) -> None:
    with h5py.File(cams, "r+", locking=False) as file:
        file["items/~"].attrs["height"] = 9
    assert [line for line in _check(cams) if "digest" in line] == _check(cams) != []
    with h5py.File(cams, "r+", locking=False) as file:
        file.create_group("items/stranger")
        ids = file["ids"][()]
        ids[-1] = ids[0]
        file["ids"][()] = ids
    errors = " | ".join(_check(cams))
    assert "items/stranger has no id" in errors and "items/~ has no id" in errors
    assert "the id 2007_000032 appears 2 times" in errors


def test_a_file_that_is_no_hdf5_is_not_called_repairable(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff" * 9)
    with pytest.raises(BadData, match=r"photo\.jpg: is not a shard \(27 bytes that are not HDF5\)\. Give a shard that "
                       "wsss wrote") as raised:
        Shard(tmp_path / "photo.jpg")
    assert "--repair" not in str(raised.value)


def test_rejects_a_shard_of_another_kind(cams: Path) -> None:
    with pytest.raises(BadData, match=r"cams\.h5: holds cams, not index\. Give a shard of kind index, made with "
                       r"`wsss index`\."):
        Shard(cams, "index")
    with pytest.raises(BadData, match=r"not masks or features\. .* made with `wsss features` or `wsss pseudo` or "
                       r"`wsss segment`\."):
        Shard(cams, ("masks", "features"))
    with pytest.raises(BadData, match="holds cams, not index or masks"):
        Shard(cams, ("index", "masks"))
    assert Shard(cams, ("cams", "masks")).kind == "cams"
    with pytest.raises(MissingInput):
        Shard(cams.with_name("none.h5"), "index")
