"""Stages keep neither a run nor a shard in memory, and divide large images into bands.

Sixteen times as many images need hardly more memory, and a photograph of 12 megapixels a few bytes per pixel.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from stages.shards import Item, ShardContents, provenance_entry, shard_name, write_shard
from waiting import PATIENCE

CLASSES = ("background", "cat", "dog")
SIDE = 320
SHARDS = 4
# The CAMs of the larger run take 210 MB, its masks 52 MB: the test would detect a stage that keeps either. HDF5's cache
# of an open file grows to 2 MB, and a shard of masks is built in memory: 4 to 48 MB were measured.
FEW, MANY = 8, 128
MAX_DIFFERENCE = 90e6
# A process inherits the peak memory of its parent; this intermediate parent needs hardly any.
MEASURE_CHILD = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def write_run(folder: Path, per_shard: int) -> None:
    """Write an index with packed masks, and a run of CAMs as large as the images."""
    index_entry = provenance_entry("index", "table", {"pack": True, "supervision": "tags"}, {})
    cams_entry = provenance_entry("cams", "cnn", {}, {})
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[40:100, 40:100] = 1
    png = io.BytesIO()
    Image.fromarray(mask).save(png, "PNG")
    packed = np.frombuffer(png.getvalue(), np.uint8)
    ids = [f"{index:05d}" for index in range(SHARDS * per_shard)]
    index_attrs = {"path": "a.jpg", "mask_path": "a.png", "height": SIDE, "width": SIDE}
    digest = write_shard(folder / "index.h5", ShardContents(
        "index", CLASSES,
        [Item(name, {"labels": np.array([1, 2], np.uint16), "mask": packed}, index_attrs) for name in ids],
        provenance=[index_entry], root_attrs={"root": "."}))
    cams = {"class_ids": np.array([1, 2], np.uint16), "cam": np.stack([mask, 1 - mask]).astype(np.float16)}
    cams_attrs = {"height": SIDE, "width": SIDE, "covers": np.array([SIDE, SIDE])}
    (folder / "cams").mkdir()
    for part in range(SHARDS):
        items = [Item(name, cams, cams_attrs) for name in ids[part * per_shard:(part + 1) * per_shard]]
        write_shard(folder / "cams" / shard_name("cams", part, SHARDS), ShardContents(
            "cams", CLASSES, items, part=part, parts=SHARDS, provenance=[index_entry, cams_entry], index_digest=digest,
            index_path="../index.h5", root_attrs={"background": "none"}))


def measure_peak_memory(folder: Path, *words: object) -> int:
    """Run a command of wsss, which must exit with 0, and return its peak memory in bytes."""
    command = [sys.executable, "-c", MEASURE_CHILD, sys.executable, "-m", "wsss_cli", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("words", [
    ("pseudo", "cams", "--background", "constant:0.3", "-o", "masks", "-q"),
    ("eval", "cams", "--background", "constant:0.3", "-q"), ("check", "cams", "-q"),
    ("cooc", "index.h5", "-o", "cooc.h5")], ids=lambda words: words[0])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, words: tuple[str, ...]) -> None:
    peaks = {}
    for per_shard in (FEW, MANY):
        folder = tmp_path / str(per_shard)
        folder.mkdir()
        write_run(folder, per_shard)
        peaks[per_shard] = measure_peak_memory(folder, *words)
    assert peaks[MANY] < peaks[FEW] + MAX_DIFFERENCE, peaks


LARGE = (3000, 4000)
NUM_CLASSES = 6
# Maps of the size of the image took 8 bytes per pixel and class, and decoding a whole JPEG to check it 14 bytes per
# pixel. Now the bytes per pixel are 8 for pseudo (mask and confidence, and their copies for the journal), 4 for eval
# and 3 for index, mostly for the mask.
PSEUDO, EVAL, INDEX = 14, 8, 7


def write_large_image(folder: Path, size: tuple[int, int]) -> None:
    """Write a photograph with its mask and tags, and small CAMs of all classes that cover it."""
    height, width = size
    classes = ("background", *(f"class{number}" for number in range(1, NUM_CLASSES + 1)))
    for name in ("images", "masks", "cams"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (width, height), (90, 120, 60)).save(folder / "images" / "a.jpg")
    Image.fromarray(np.full(size, 1, np.uint8)).save(folder / "masks" / "a.png")
    (folder / "tags.csv").write_text("id,labels\na,class1\n")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    index_attrs = {"path": "images/a.jpg", "mask_path": "masks/a.png", "height": height, "width": width}
    entry = provenance_entry("index", "table", {"supervision": "tags"}, {})
    digest = write_shard(folder / "index.h5", ShardContents(
        "index", classes, [Item("a", {"labels": np.array([1], np.uint16)}, index_attrs)], provenance=[entry],
        root_attrs={"root": "."}))
    cams = {"class_ids": np.arange(1, NUM_CLASSES + 1, dtype=np.uint16),
            "cam": np.random.default_rng(0).random((NUM_CLASSES, 30, 40)).astype(np.float16)}
    write_shard(folder / "cams" / shard_name("cams", 0, 1), ShardContents(
        "cams", classes, [Item("a", cams, {"height": height, "width": width, "covers": np.array(size)})],
        provenance=[entry, provenance_entry("cams", "cnn", {}, {})], index_digest=digest, index_path="../index.h5",
        root_attrs={"background": "none"}))


@pytest.mark.parametrize(("words", "bytes_per_pixel"), [
    (("pseudo", "cams", "-j", "1", "-o", "pseudo", "-q"), PSEUDO), (("eval", "cams", "-q"), EVAL),
    (("eval", "cams", "--background", "power:2", "-q"), EVAL),
    (("index", "table", "tags.csv", "--images", "images", "--masks", "masks", "--class-names", "classes.txt", "-q",
      "-o", "new.h5"), INDEX)], ids=["pseudo", "sweep", "background", "index"])
def test_memory_of_a_large_photograph(tmp_path: Path, words: tuple[str, ...], bytes_per_pixel: int) -> None:
    peaks = {}
    for size in (LARGE, (30, 40)):
        folder = tmp_path / str(size[0])
        write_large_image(folder, size)
        peaks[size] = measure_peak_memory(folder, *words)
    assert peaks[LARGE] < peaks[30, 40] + bytes_per_pixel * LARGE[0] * LARGE[1], peaks
