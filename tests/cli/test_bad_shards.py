"""Shards of the wrong kind, cut, of a newer version, with a flipped byte; maps that are not numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.runner import SMALL, TRAINING, good, refused, run
from conftest import ROOT
from stages.shards import Contents, Item, Run, Shard, write_shard
from waiting import PATIENCE


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps of the whole tiny set, one file."""
    path = tmp_path_factory.mktemp("shards") / "cams.h5"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", path, *SMALL)
    return path


@pytest.fixture
def bad(cams) -> Path:
    """Return the path of a copy of the maps that lies beside them, to be spoiled."""
    copy = cams.with_name("bad.h5")
    shutil.copy(cams, copy)
    yield copy
    if copy.is_dir():
        copy.rmdir()
    else:
        copy.unlink()


READERS = [("refine", "crf"), ("pseudo",), ("eval",), ("info",), ("show", "--terminal")]


def reading(words: tuple[str, ...], path: Path, tmp_path: Path) -> tuple:
    """Return the command line by which a stage reads `path`."""
    return (*words, path, *(("-o", tmp_path / "out") if words[0] in ("refine", "pseudo") else ()))


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = np.bytes_("2.0")


def other_kind(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["kind"] = np.bytes_("poems")


def without_ids(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["ids"]


def ids_of_numbers(path: Path) -> None:
    without_ids(path)
    with h5py.File(path, "r+") as file:
        file["ids"] = np.arange(12)


def foreign(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = 1


SPOILED = {
    "text": (lambda path: path.write_text("no shard"), 65, "is not a shard (8 bytes"),
    "empty": (lambda path: path.write_bytes(b""), 65, "is not a shard (0 bytes"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), 65, "is cut short"),
    "newer": (newer, 65, "has format 2.0; this wsss reads up to 1.0"),
    "another kind": (other_kind, 65, "poems"),
    "without ids": (without_ids, 65, "lacks the dataset ids"),
    "ids of numbers": (ids_of_numbers, 65, "ids is <i8 with 1 axes, not S with 1"),
    "of another program": (foreign, 65, "not a shard of wsss"),
    "an empty folder": (lambda path: (path.unlink(), path.mkdir()), 66, "holds no shards"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), 66, "bad.h5"),
    "gone": (lambda path: path.unlink(), 66, "is not there"),
}


@pytest.mark.parametrize("kind", list(SPOILED))
def test_what_is_no_shard_is_told_by_every_stage(bad, tmp_path, kind):
    spoil, code, told = SPOILED[kind]
    spoil(bad)
    try:
        for words in READERS:
            answer = refused(run(*reading(words, bad, tmp_path)), code, str(bad), told)
            assert answer.startswith(f"wsss {words[0]}")
        assert not list((tmp_path / "out").glob("*.h5"))
    finally:
        if kind == "gone":
            bad.touch()


def test_check_finds_what_is_no_shard(bad):
    os.truncate(bad, bad.stat().st_size - 100)
    done = run("check", bad)
    assert (done.code, done.out) == (65, f"{bad}\tdamaged\n")
    assert f"{bad}: is cut short" in done.err


def test_a_flipped_byte_is_found_or_harmless(bad, cams, tmp_path):
    """Of any byte of the file: the outcome is an answer or the same masks, never other masks."""
    whole = cams.read_bytes()
    good("pseudo", cams, "-o", tmp_path / "true.h5")
    expected = {name: Run([tmp_path / "true.h5"]).item(name).datasets["mask"] for name in Shard(cams).ids}
    random = np.random.default_rng(1)
    found = 0
    for number, place in enumerate(random.integers(0, len(whole), 24).tolist()):
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:])
        checked = run("check", bad)
        assert checked.code in (0, 65, 66), checked.err
        output = tmp_path / f"{number}.h5"
        done = run("pseudo", bad, "-o", output)
        assert "internal error" not in done.err
        assert "Traceback" not in done.err + checked.err
        found += checked.code != 0
        if done.code == 0:
            masks = Run([output])
            for name, mask in expected.items():
                np.testing.assert_array_equal(masks.item(name).datasets["mask"], mask)
        else:
            assert done.code in (65, 66)
            assert checked.code != 0, f"byte {place}: {done.err}"
    assert found > 12


def test_one_damaged_item_is_refused_and_the_others_are_made(bad, tmp_path):
    with h5py.File(bad, "r") as file:
        place = file["items/picture_004/cam"].id.get_chunk_info(0)
    data = bytearray(bad.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 0xFF
    bad.write_bytes(bytes(data))
    checked = run("check", bad)
    assert checked.code == 65
    assert "picture_004" in checked.err
    done = run("pseudo", bad, "-o", tmp_path / "masks")
    assert done.code == 65
    assert "picture_004" in done.err
    assert len(done.err.splitlines()) == 2
    assert list(Run([tmp_path / "masks"]).first.errors) == ["picture_004"]


@pytest.mark.parametrize(("dataset", "value", "told"), [
    ("cam", None, "lacks the dataset cam"), ("class_ids", None, "lacks the dataset class_ids"),
    ("cam", np.zeros((1, 12, 16)), "cam is <f8 with 3 axes, not <f2 or |u1 with 3"),
    ("cam", np.zeros((12, 16), np.float16), "cam is <f2 with 2 axes")])
def test_an_item_that_is_not_as_its_kind_has_it(bad, tmp_path, dataset, value, told):
    with h5py.File(bad, "r+") as file:
        del file[f"items/picture_004/{dataset}"]
        if value is not None:
            file[f"items/picture_004/{dataset}"] = value
    refused(run("check", bad), 65, f"{bad}: item picture_004: {told}")
    done = run("pseudo", bad, "-o", tmp_path / "masks")
    assert done.code == 65 and told in done.err
    assert list(Run([tmp_path / "masks"]).first.errors) == ["picture_004"]
    refused(run("eval", bad), 65, "picture_004", told)


def test_a_shard_that_a_writer_has_open_is_read_without_a_lock(bad, tmp_path):
    with h5py.File(bad, "r+"):
        script = f"import sys; sys.argv = ['wsss', 'info', {str(bad)!r}]; from wsss_cli.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE)
    assert done.returncode in (0, 65), done.stderr
    assert "Traceback" not in done.stderr and "lock" not in done.stderr


def maps_with(cams: Path, path: Path, **changed: Item) -> Path:
    """Write the maps again with some items changed."""
    shard = Shard(cams)
    items = [changed.get(item.id, item) for item in shard.items()]
    write_shard(path, Contents("cams", shard.classes, items, provenance=shard.provenance,
                               index_digest=shard.index_digest,
                               index_path=str(cams.parent / shard.attribute("index_path")),
                               root_attrs={"background": "none"}))
    return path


def changed(cams: Path, name: str, **datasets: np.ndarray) -> Item:
    item = Shard(cams).item(name)
    return Item(name, {**item.datasets, **datasets}, item.attrs)


def test_maps_that_are_not_numbers(cams, tmp_path):
    pytest.importorskip("pydensecrf")
    cam = Shard(cams).item("picture_004").datasets["cam"].copy()
    cam[0, 3, 3] = np.nan
    path = maps_with(cams, tmp_path / "nan.h5", picture_004=changed(cams, "picture_004", cam=cam))
    for words in (("pseudo",), ("refine", "crf")):
        done = run(*words, path, "-o", tmp_path / words[0])
        assert done.code == 65
        assert "picture_004: the map holds values that are not finite" in done.err
        assert list(Run([tmp_path / words[0]]).first.errors) == ["picture_004"]
    refused(run("eval", path), 65, "picture_004", "not finite")
    refused(run("pseudo", path, "-o", tmp_path / "strict", "--strict"), 65, "picture_004", "not finite")


@pytest.mark.parametrize("ids", [[7], [1, 2]], ids=["no class", "another number"])
def test_maps_whose_class_ids_can_not_be(cams, tmp_path, ids):
    broken = changed(cams, "picture_004", class_ids=np.array(ids, np.uint16))
    path = maps_with(cams, tmp_path / "ids.h5", picture_004=broken)
    refused(run("eval", path), 65, "picture_004", "class_ids")
    done = run("pseudo", path, "-o", tmp_path / "masks")
    assert done.code == 65
    assert "picture_004" in done.err
    assert "internal error" not in done.err


def test_shards_of_the_wrong_kind(tiny_index, tiny_net, cams, tmp_path):
    out = ("-o", tmp_path / "out")
    refused(run("cams", "cnn", cams, "--net", tiny_net, *out), 65, str(cams), "holds cams, not index")
    refused(run("refine", "crf", tiny_index, *out), 65, str(tiny_index), "holds index, not cams")
    refused(run("pseudo", tiny_index, *out), 65, str(tiny_index), "holds index, not cams")
    refused(run("eval", tiny_index), 65, str(tiny_index), "holds index, not cams or masks")
    refused(run("export", "png", tiny_index, *out), 65, "holds index, not masks")
    refused(run("train-cls", "cam", cams, *TRAINING, "-o", tmp_path / "n.safetensors"), 65, "holds cams, not index")
    refused(run("train-seg", tiny_index, "--masks", cams, *TRAINING, "-o", tmp_path / "n.safetensors"), 65,
            "holds cams, not masks")
    refused(run("pseudo", tiny_net, *out), 65, str(tiny_net), "not a shard")


@pytest.mark.parametrize(("value", "told"), [(9, ("9", "0..2")), (255, ("no pixel of any mask", "are ignored"))])
def test_masks_of_no_class_and_masks_that_are_all_ignored_train_nothing(tiny_index, tmp_path, value, told):
    path, net = masks_of(tiny_index, tmp_path, *([np.full((48, 64), value, np.uint8)] * 12)), tmp_path / "n.safetensors"
    refused(run("train-seg", tiny_index, "--masks", path, *TRAINING, "-o", net), 65, *told)
    assert not net.exists()


def test_the_log_counts_the_pixels_that_had_a_loss(tiny_index, tmp_path):
    """A quarter of one mask, all of another, nothing of the other ten; the crops of 48x64 are padded where smaller."""
    quarter, nothing = np.full((48, 64), 255, np.uint8), np.full((48, 64), 255, np.uint8)
    quarter[:24, :32] = 1
    path = masks_of(tiny_index, tmp_path, quarter, np.ones((48, 64), np.uint8), *([nothing] * 10))
    done = run("train-seg", tiny_index, "--masks", path, *TRAINING, "--scale-range", "1,1", "--crop-size", "64", "-o",
               tmp_path / "n.safetensors")
    told = json.loads((tmp_path / "n.log.jsonl").read_text().splitlines()[0])
    assert (told["pixels"], told["pixels_with_loss"]) == (12 * 64 * 64, 48 * 64 * 5 // 4)
    assert "7.8% of the pixels seen had a loss" in done.err


def masks_of(index_path: Path, folder: Path, *masks: np.ndarray) -> Path:
    """Write masks of the index's first images."""
    index = Shard(index_path)
    items = [Item(name, {"mask": mask}) for name, mask in zip(index.ids, masks, strict=True)]
    write_shard(folder / "masks.h5", Contents("masks", index.classes, items, provenance=index.provenance,
                                              index_digest=index.digest, index_path=str(index_path)))
    return folder / "masks.h5"


def test_runs_that_do_not_belong_together(tiny_index, tiny_net, cams, tmp_path):
    out = tmp_path / "run"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", out, "--shard-size", "6", "-j", "1", *SMALL)
    first = out / "cams-00000-of-00002.h5"
    refused(run("eval", first, cams), 65, str(cams))
    refused(run("eval", first, first, out / "cams-00001-of-00002.h5"), 65, "part 0", "twice")
    shutil.copy(cams, out / "cams-00000-of-00001.h5")
    refused(run("pseudo", out, "-o", tmp_path / "out"), 65, str(out), "more than one run")


def test_as_users_run_it(wsss, bad):
    bad.write_text("no shard")
    refused(wsss("pseudo", bad, "-o", "out"), 65, str(bad), "is not a shard (8 bytes")
