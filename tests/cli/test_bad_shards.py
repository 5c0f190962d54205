"""Shards of the wrong kind, truncated, of a newer version, with a flipped byte; CAMs that are not finite."""

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

from cli.runner import SMALL, TRAINING, check_error, list_messages, run, run_ok
from conftest import ROOT
from stages.shards import Item, Run, Shard, ShardContents, write_shard
from waiting import PATIENCE


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return the CAMs of the whole tiny data set in one file."""
    path = tmp_path_factory.mktemp("shards") / "cams.h5"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", path, *SMALL)
    return path


@pytest.fixture
def bad_shard(cams) -> Path:
    """Return the path of a copy of the CAMs in the same folder, to be damaged by a test."""
    copy = cams.with_name("bad.h5")
    shutil.copy(cams, copy)
    yield copy
    if copy.is_dir():
        copy.rmdir()
    else:
        copy.unlink()


READERS = [("refine", "crf"), ("pseudo",), ("eval",), ("info",), ("show", "--terminal")]


def build_command(words: tuple[str, ...], path: Path, tmp_path: Path) -> tuple:
    """Return the arguments with which a stage reads `path`."""
    return (*words, path, *(("-o", tmp_path / "out") if words[0] in ("refine", "pseudo") else ()))


def set_newer_format(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = np.bytes_("2.0")


def set_unknown_kind(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["kind"] = np.bytes_("poems")


def remove_ids(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["ids"]


def set_numeric_ids(path: Path) -> None:
    remove_ids(path)
    with h5py.File(path, "r+") as file:
        file["ids"] = np.arange(12)


def replace_with_other_hdf5(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file["x"] = 1


DAMAGES = {
    "text": (lambda path: path.write_text("no shard"), 65, "is not a shard (8 bytes"),
    "empty": (lambda path: path.write_bytes(b""), 65, "is not a shard (0 bytes"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), 65, "is truncated"),
    "newer": (set_newer_format, 65, "has format 2.0 but this wsss reads up to 1.1"),
    "another kind": (set_unknown_kind, 65, "poems"),
    "without ids": (remove_ids, 65, "lacks the dataset ids"),
    "ids of numbers": (set_numeric_ids, 65, "ids is <i8 with 1 axes, not S with 1"),
    "of another program": (replace_with_other_hdf5, 65, "not a shard of wsss"),
    "an empty folder": (lambda path: (path.unlink(), path.mkdir()), 66, "holds no shards"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), 66, "bad.h5"),
    "gone": (lambda path: path.unlink(), 66, "does not exist"),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_every_stage_reports_an_invalid_shard(bad_shard, tmp_path, kind):
    damage, code, message = DAMAGES[kind]
    damage(bad_shard)
    try:
        for words in READERS:
            line = check_error(run(*build_command(words, bad_shard, tmp_path)), code, str(bad_shard), message)
            assert line.startswith(f"wsss {words[0]}")
        assert not list((tmp_path / "out").glob("*.h5"))
    finally:
        if kind == "gone":
            bad_shard.touch()


def test_check_reports_a_truncated_shard(bad_shard):
    os.truncate(bad_shard, bad_shard.stat().st_size - 100)
    done = run("check", bad_shard)
    assert (done.code, done.out) == (65, f"{bad_shard}\tdamaged\n")
    assert f"{bad_shard}: is truncated" in done.err


def test_a_flipped_byte_gives_an_error_or_the_same_masks(bad_shard, cams, tmp_path):
    """For any byte of the file: the outcome is an error or the same masks, never different masks."""
    data = cams.read_bytes()
    run_ok("pseudo", cams, "-o", tmp_path / "true.h5")
    expected = {name: Run([tmp_path / "true.h5"]).item(name).datasets["mask"] for name in Shard(cams).ids}
    random = np.random.default_rng(1)
    num_detected = 0
    for number, offset in enumerate(random.integers(0, len(data), 24).tolist()):
        bad_shard.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1:])
        checked = run("check", bad_shard)
        assert checked.code in (0, 65, 66), checked.err
        output = tmp_path / f"{number}.h5"
        done = run("pseudo", bad_shard, "-o", output)
        assert "internal error" not in done.err
        assert "Traceback" not in done.err + checked.err
        num_detected += checked.code != 0
        if done.code == 0:
            masks = Run([output])
            for name, mask in expected.items():
                np.testing.assert_array_equal(masks.item(name).datasets["mask"], mask)
        else:
            assert done.code in (65, 66)
            assert checked.code != 0, f"byte {offset}: {done.err}"
    assert num_detected > 12


def test_one_damaged_item_fails_and_the_others_are_made(bad_shard, tmp_path):
    with h5py.File(bad_shard, "r") as file:
        chunk = file["items/picture_004/cam"].id.get_chunk_info(0)
    data = bytearray(bad_shard.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    bad_shard.write_bytes(bytes(data))
    checked = run("check", bad_shard)
    assert checked.code == 65
    assert "picture_004" in checked.err
    done = run("pseudo", bad_shard, "-o", tmp_path / "masks")
    assert done.code == 65
    assert "picture_004" in done.err
    assert len(list_messages(done)) == 2
    assert list(Run([tmp_path / "masks"]).first.errors) == ["picture_004"]


@pytest.mark.parametrize(("dataset", "value", "message"), [
    ("cam", None, "lacks the dataset cam"), ("class_ids", None, "lacks the dataset class_ids"),
    ("cam", np.zeros((1, 12, 16)), "cam is <f8 with 3 axes, not <f2 or |u1 with 3"),
    ("cam", np.zeros((12, 16), np.float16), "cam is <f2 with 2 axes")])
def test_an_item_that_does_not_match_its_kind_fails(bad_shard, tmp_path, dataset, value, message):
    with h5py.File(bad_shard, "r+") as file:
        del file[f"items/picture_004/{dataset}"]
        if value is not None:
            file[f"items/picture_004/{dataset}"] = value
    check_error(run("check", bad_shard), 65, f"{bad_shard}: item picture_004: {message}")
    done = run("pseudo", bad_shard, "-o", tmp_path / "masks")
    assert done.code == 65 and message in done.err
    assert list(Run([tmp_path / "masks"]).first.errors) == ["picture_004"]
    check_error(run("eval", bad_shard), 65, "picture_004", message)


def test_reads_without_a_lock_a_shard_that_a_writer_has_open(bad_shard, tmp_path):
    with h5py.File(bad_shard, "r+"):
        script = (f"import sys; sys.argv = ['wsss', 'info', {str(bad_shard)!r}]; "
                  "from wsss_cli.__main__ import main; main()")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE)
    assert done.returncode in (0, 65), done.stderr
    assert "Traceback" not in done.stderr and "lock" not in done.stderr


def write_cams_with(cams: Path, path: Path, **replacements: Item) -> Path:
    """Write a copy of the CAMs with some items replaced."""
    shard = Shard(cams)
    items = [replacements.get(item.id, item) for item in shard.items()]
    write_shard(path, ShardContents("cams", shard.classes, items, provenance=shard.provenance,
                                    index_digest=shard.index_digest,
                                    index_path=str(cams.parent / shard.attribute("index_path")),
                                    root_attrs={"background": "none"}))
    return path


def change_item(cams: Path, name: str, **datasets: np.ndarray) -> Item:
    item = Shard(cams).item(name)
    return Item(name, {**item.datasets, **datasets}, item.attrs)


def test_cams_that_are_not_finite_fail(cams, tmp_path):
    cam = Shard(cams).item("picture_004").datasets["cam"].copy()
    cam[0, 3, 3] = np.nan
    path = write_cams_with(cams, tmp_path / "nan.h5", picture_004=change_item(cams, "picture_004", cam=cam))
    for words in (("pseudo",), ("refine", "crf")):
        done = run(*words, path, "-o", tmp_path / words[0])
        assert done.code == 65
        assert "picture_004: the CAMs contain values that are not finite" in done.err
        assert list(Run([tmp_path / words[0]]).first.errors) == ["picture_004"]
    check_error(run("eval", path), 65, "picture_004", "not finite")
    check_error(run("pseudo", path, "-o", tmp_path / "strict", "--strict"), 65, "picture_004", "not finite")


@pytest.mark.parametrize("ids", [[7], [1, 2]], ids=["no class", "another number"])
def test_cams_with_invalid_class_ids_fail(cams, tmp_path, ids):
    broken = change_item(cams, "picture_004", class_ids=np.array(ids, np.uint16))
    path = write_cams_with(cams, tmp_path / "ids.h5", picture_004=broken)
    check_error(run("eval", path), 65, "picture_004", "class_ids")
    done = run("pseudo", path, "-o", tmp_path / "masks")
    assert done.code == 65
    assert "picture_004" in done.err
    assert "internal error" not in done.err


def test_rejects_shards_of_the_wrong_kind(tiny_index, tiny_net, cams, tmp_path):
    out = ("-o", tmp_path / "out")
    check_error(run("cams", "cnn", cams, "--net", tiny_net, *out), 65, str(cams), "holds cams, not index")
    check_error(run("refine", "crf", tiny_index, *out), 65, str(tiny_index), "holds index, not cams")
    check_error(run("pseudo", tiny_index, *out), 65, str(tiny_index), "holds index, not cams")
    check_error(run("eval", tiny_index), 65, str(tiny_index), "holds index, not cams or masks")
    check_error(run("export", "png", cams, *out), 65, "holds cams, not masks or index")
    check_error(run("train-cls", "cam", cams, *TRAINING, "-o", tmp_path / "n.safetensors"), 65, "holds cams, not index")
    check_error(run("train-seg", tiny_index, "--masks", cams, *TRAINING, "-o", tmp_path / "n.safetensors"), 65,
            "holds cams, not masks")
    check_error(run("pseudo", tiny_net, *out), 65, str(tiny_net), "not a shard")


@pytest.mark.parametrize(("value", "messages"), [(9, ("9", "0..2")), (255, ("every pixel of every mask is ignored",))])
def test_masks_of_unknown_classes_and_ignored_masks_train_nothing(tiny_index, tmp_path, value, messages):
    path = write_masks(tiny_index, tmp_path, *([np.full((48, 64), value, np.uint8)] * 12))
    net = tmp_path / "n.safetensors"
    check_error(run("train-seg", tiny_index, "--masks", path, *TRAINING, "-o", net), 65, *messages)
    assert not net.exists()


def test_the_log_counts_the_pixels_with_a_loss(tiny_index, tmp_path):
    """A quarter of one mask, all of another and none of the other ten; crops of 48x64 are padded to 64x64."""
    quarter, ignored = np.full((48, 64), 255, np.uint8), np.full((48, 64), 255, np.uint8)
    quarter[:24, :32] = 1
    path = write_masks(tiny_index, tmp_path, quarter, np.ones((48, 64), np.uint8), *([ignored] * 10))
    done = run("train-seg", tiny_index, "--masks", path, *TRAINING, "--scale-range", "1,1", "--crop-size", "64", "-o",
               tmp_path / "n.safetensors")
    log = json.loads((tmp_path / "n.log.jsonl").read_text().splitlines()[0])
    assert (log["pixels"], log["pixels_with_loss"]) == (12 * 64 * 64, 48 * 64 * 5 // 4)
    assert "7.8% of the pixels in training had a loss" in done.err


def write_masks(index_path: Path, folder: Path, *masks: np.ndarray) -> Path:
    """Write masks for all images of the index."""
    index = Shard(index_path)
    items = [Item(name, {"mask": mask}) for name, mask in zip(index.ids, masks, strict=True)]
    write_shard(folder / "masks.h5", ShardContents("masks", index.classes, items, provenance=index.provenance,
                                                   index_digest=index.digest, index_path=str(index_path)))
    return folder / "masks.h5"


def test_rejects_shards_of_different_runs(tiny_index, tiny_net, cams, tmp_path):
    out = tmp_path / "run"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", out, "--shard-size", "6", "-j", "1", *SMALL)
    first = out / "cams-00000-of-00002.h5"
    check_error(run("eval", first, cams), 66, "lacks part 1 of 2")
    check_error(run("eval", first, first, out / "cams-00001-of-00002.h5"), 65, "part 0", "twice")
    shutil.copy(cams, out / "cams-00000-of-00001.h5")
    check_error(run("pseudo", out, "-o", tmp_path / "out"), 65, str(out), "more than one run")


def test_reports_an_invalid_shard_from_the_command_line(wsss, bad_shard):
    bad_shard.write_text("no shard")
    check_error(wsss("pseudo", bad_shard, "-o", "out"), 65, str(bad_shard), "is not a shard (8 bytes")
