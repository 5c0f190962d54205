"""Stages keep neither a run nor a shard in memory: sixteen times as many images need hardly more memory."""

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
