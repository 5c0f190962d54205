"""Shards of a few kilobytes that claim gigabytes are rejected in one line, without allocating memory for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from cli.runner import SMALL, check_error, run, run_ok
from stages.shards import Item, Shard, ShardContents, write_shard

NAME = "picture_004"


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return CAMs of the whole tiny data set in one file, which tests must not change."""
    path = tmp_path_factory.mktemp("forged") / "cams.h5"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", path, *SMALL)
    return path


def forge_shape(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Replace a dataset by an empty one that claims a shape."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=tuple(min(side, 256) for side in shape), compression="gzip",
                            shuffle=True, fletcher32=True)


@pytest.mark.parametrize(("name", "shape", "dtype", "message"), [
    (f"items/{NAME}/cam", (1, 200_000, 200_000), "<f2", "cam has 200000x200000 pixels, over the limit of 200000000"),
    (f"items/{NAME}/cam", (60_000, 700, 1_000), "<f2", "84000000000 bytes, but the file can hold at most"),
    (f"items/{NAME}/scores", (20_000_000_000,), "<f4", "80000000000 bytes, but the file can hold at most"),
    ("ids", (10_000_000_000,), "S9", "90000000000 bytes, but the file can hold at most")],
    ids=["pixels", "rows", "scores", "ids"])
def test_a_dataset_that_claims_more_than_the_file_can_hold(cams, tmp_path, name, shape, dtype, message):
    path = Path(shutil.copy(cams, cams.with_name(f"{tmp_path.name}.h5")))
    forge_shape(path, name, shape, dtype)
    assert path.stat().st_size < 100_000
    done = run("check", path)
    assert (done.code, done.out) == (65, f"{path}\tdamaged\n")
    lines = done.err.splitlines()
    assert len(lines) == 1 and message in lines[0] and lines[0].startswith(f"wsss check: {path}")
    words = run("pseudo", path, "-o", tmp_path / "out.h5")
    assert words.code == 65 and message in words.err
    if name != "ids":
        assert list(Shard(tmp_path / "out.h5").errors) == [NAME]


@pytest.mark.parametrize(("attrs", "message"), [
    ({"height": 1 << 40, "width": 1 << 40}, "image has 1099511627776x1099511627776 pixels, over the limit"),
    ({"height": 0}, "image of 0x64 pixels"), ({"width": -5}, "image of 48x-5 pixels"),
    ({"covers": np.array([0, 64])}, "map over [ 0 64] is invalid"),
    ({"covers": np.array([64])}, "map over [64] is invalid")],
    ids=["too large", "zero", "negative", "covers nothing", "covers a line"])
def test_invalid_sizes_are_rejected(cams, tmp_path, attrs, message):
    shard = Shard(cams)
    items = [Item(item.id, item.datasets, {**item.attrs, **attrs} if item.id == NAME else item.attrs)
             for item in shard.items()]
    path = cams.with_name("sizes.h5")
    write_shard(path, ShardContents("cams", shard.classes, items, provenance=shard.provenance,
                                    index_digest=shard.index_digest, index_path=shard.attribute("index_path"),
                                    root_attrs={"background": shard.attribute("background")}))
    check_error(run("check", path), 65, f"item {NAME}: ", message)
    check_error(run("eval", path), 65, f"item {NAME}: ", message)


def test_data_that_compress_well_are_read(tmp_path):
    item = Item("a", {"mask": np.zeros((6000, 8000), np.uint8)})
    contents = ShardContents("masks", ("background", "cat"), [item], provenance=({"stage": "made"},))
    write_shard(tmp_path / "m.h5", contents)
    assert (tmp_path / "m.h5").stat().st_size < 100_000
    assert Shard(tmp_path / "m.h5").item("a").datasets["mask"].shape == (6000, 8000)
    run_ok("check", tmp_path / "m.h5")
