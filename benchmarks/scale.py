"""A run of many shards through `pseudo` and `eval`: how long, and how much memory at most.

`python benchmarks/scale.py [--shards 1000] [--images 100] [--jobs 2] [--folder DIR]` makes an index of SHARDS x IMAGES
small images with packed masks, and a run of SHARDS shards of maps, by the library. Then it runs the commands as a user
would, and prints for each its seconds by the clock and of processor time, images a second by the latter, and the memory
of its largest process. A run that lies in DIR
already is taken.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.shards import Contents, Item, provenance_entry, shard_name, write_shard

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("background", *(f"class {number}" for number in range(1, 21)))
SIZE, GRID = 64, 8  # pixels and cells a side


def truth(number: int) -> np.ndarray:
    """Return the mask of an image: a rectangle of its class."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8 + number % 16:48, 8 + number // 16 % 16:56] = 1 + number % 20
    return mask


def index_item(number: int) -> Item:
    """Return what an index holds of an image, its mask packed."""
    stream = io.BytesIO()
    Image.fromarray(truth(number)).save(stream, "PNG")
    return Item(f"image_{number:08d}", {"labels": np.array([1 + number % 20], np.uint16),
                                       "mask": np.frombuffer(stream.getvalue(), np.uint8)},
                {"path": f"{number:08d}.jpg", "mask_path": f"{number:08d}.png", "height": SIZE, "width": SIZE})


def cams_item(number: int, random: np.random.Generator) -> Item:
    """Return maps of two classes, the first that of the mask."""
    rows = random.random((2, GRID, GRID)) * 0.4
    rows[0] += truth(number)[::SIZE // GRID, ::SIZE // GRID] > 0
    rows /= rows.max((1, 2), keepdims=True)
    ids = np.array([1 + number % 20, 1 + (number + 1) % 20], np.uint16)
    return Item(f"image_{number:08d}", {"class_ids": ids, "cam": rows.astype(np.float16)},
                {"height": SIZE, "width": SIZE, "covers": np.array([SIZE, SIZE])})


def make(folder: Path, shards: int, images: int) -> None:
    """Write the index and the run of maps."""
    entry = provenance_entry("index", "table", {"pack": True, "supervision": "tags"}, {})
    index = Contents("index", CLASSES, [index_item(number) for number in range(shards * images)],
                     provenance=[entry], root_attrs={"root": "."})
    digest = write_shard(folder / "index.h5", index)
    made = provenance_entry("cams", "cnn", {}, {"index": digest})
    (folder / "cams").mkdir(exist_ok=True)
    for part in range(shards):
        random = np.random.default_rng(part)
        items = [cams_item(number, random) for number in range(part * images, (part + 1) * images)]
        write_shard(folder / "cams" / shard_name("cams", part, shards), Contents(
            "cams", CLASSES, items, part=part, parts=shards, provenance=[entry, made], index_digest=digest,
            index_path="../index.h5", root_attrs={"background": "none"}))


def timed(folder: Path, *words: object) -> tuple[float, float, int]:
    """Run a command of wsss to its end; return its seconds, those of processor time, and its largest process in kB."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "wsss_cli", *map(str, words)], cwd=folder, env=environment,
                               stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"wsss {' '.join(map(str, words))} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def commands(jobs: int) -> Iterator[tuple[object, ...]]:
    """Yield the commands to be measured."""
    yield "pseudo", "cams", "-o", "masks", "-j", jobs, "-f", "-q"
    yield "pseudo", "cams", "-o", "masks", "-j", jobs, "-q"  # up to date
    yield "eval", "masks", "-q", "-o", "masks.json"
    yield "eval", "cams", "-q", "-o", "cams.json"


def main() -> None:
    """Make what is not there, run the commands and print a table."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--shards", type=int, default=1000)
    words.add_argument("--images", type=int, default=100)
    words.add_argument("--jobs", type=int, default=2)
    words.add_argument("--folder", type=Path)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        if not (folder / "cams" / shard_name("cams", given.shards - 1, given.shards)).exists():
            make(folder, given.shards, given.images)
            print(f"made {given.shards} shards of {given.images} images in {time.monotonic() - started:.0f} s")
        for command in commands(given.jobs):
            seconds, worked, memory = timed(folder, *command)
            print(f"{' '.join(map(str, command)):40s} {seconds:7.1f} s, {worked:6.1f} s of processor time: "
                  f"{given.shards * given.images / worked:5.0f} images/s; {memory / 1024:4.0f} MB", flush=True)
        for name in ("index.h5", "cams", "masks"):
            files = [folder / name] if name.endswith(".h5") else sorted((folder / name).glob("*.h5"))
            print(f"{name}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
