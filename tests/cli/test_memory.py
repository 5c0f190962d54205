"""A stage holds neither a run nor a shard of it: sixteen times as many images take hardly more memory."""

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
from stages.shards import Contents, Item, provenance_entry, shard_name, write_shard
from waiting import PATIENCE

CLASSES = ("background", "cat", "dog")
SIDE = 320
SHARDS = 4
# The maps of the larger run take 210 MB, its masks 52 MB: a stage that keeps either is seen. What HDF5 keeps of an open
# file grows to 2 MB, and a shard of masks is made in memory: 4 to 48 MB were measured.
FEW, MANY = 8, 128
MOST = 90e6
# A process begins with the peak of the one that started it; this one has next to none.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def write(folder: Path, per_shard: int) -> None:
    """Write an index with packed masks, and a run of maps as large as the images."""
    entry = provenance_entry("index", "table", {"pack": True, "supervision": "tags"}, {})
    made = provenance_entry("cams", "cnn", {}, {})
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[40:100, 40:100] = 1
    png = io.BytesIO()
    Image.fromarray(mask).save(png, "PNG")
    packed = np.frombuffer(png.getvalue(), np.uint8)
    ids = [f"{number:05d}" for number in range(SHARDS * per_shard)]
    places = {"path": "a.jpg", "mask_path": "a.png", "height": SIDE, "width": SIDE}
    digest = write_shard(folder / "index.h5", Contents(
        "index", CLASSES, [Item(one, {"labels": np.array([1, 2], np.uint16), "mask": packed}, places) for one in ids],
        provenance=[entry], root_attrs={"root": "."}))
    maps = {"class_ids": np.array([1, 2], np.uint16), "cam": np.stack([mask, 1 - mask]).astype(np.float16)}
    attributes = {"height": SIDE, "width": SIDE, "covers": np.array([SIDE, SIDE])}
    (folder / "cams").mkdir()
    for part in range(SHARDS):
        items = [Item(one, maps, attributes) for one in ids[part * per_shard:(part + 1) * per_shard]]
        write_shard(folder / "cams" / shard_name("cams", part, SHARDS), Contents(
            "cams", CLASSES, items, part=part, parts=SHARDS, provenance=[entry, made], index_digest=digest,
            index_path="../index.h5", root_attrs={"background": "none"}))


def peak(folder: Path, *words: object) -> int:
    """Run a command of wsss, which must end with 0, and return its memory at most, in bytes."""
    command = [sys.executable, "-c", BETWEEN, sys.executable, "-m", "wsss_cli", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("words", [
    ("pseudo", "cams", "--background", "constant:0.3", "-o", "masks", "-q"),
    ("eval", "cams", "--background", "constant:0.3", "-q"), ("check", "cams", "-q"),
    ("cooc", "index.h5", "-o", "cooc.h5")], ids=lambda words: words[0])
def test_many_images_take_the_memory_of_few(tmp_path: Path, words: tuple[str, ...]) -> None:
    needed = {}
    for per_shard in (FEW, MANY):
        folder = tmp_path / str(per_shard)
        folder.mkdir()
        write(folder, per_shard)
        needed[per_shard] = peak(folder, *words)
    assert needed[MANY] < needed[FEW] + MOST, needed
