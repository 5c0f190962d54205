"""Measure time and memory of `pseudo` and `eval` on a run of many shards.

    python benchmarks/scale.py [--shards 1000] [--images 100] [--jobs 2] [--folder DIR]

Writes an index of SHARDS x IMAGES small images with packed masks and a CAM run of SHARDS shards, unless DIR has them
already. Then it runs the commands as a user would, and prints for each its wall and CPU seconds, the images per CPU
second, and the memory of its largest process.
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
from results import Result, record_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.shards import Item, ShardContents, build_image_records, provenance_entry, shard_name, write_shard

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("background", *(f"class {number}" for number in range(1, 21)))
SIZE, GRID = 64, 8  # pixels of an image and cells of a CAM per side


def draw_truth(number: int) -> np.ndarray:
    """Return the ground-truth mask of an image: a rectangle of its class."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8 + number % 16:48, 8 + number // 16 % 16:56] = 1 + number % 20
    return mask


def build_index_item(number: int) -> Item:
    """Return the index item of an image, with its packed mask."""
    stream = io.BytesIO()
    Image.fromarray(draw_truth(number)).save(stream, "PNG")
    return Item(f"image_{number:08d}", {"labels": np.array([1 + number % 20], np.uint16),
                                        "mask": np.frombuffer(stream.getvalue(), np.uint8)},
                {"path": f"{number:08d}.jpg", "mask_path": f"{number:08d}.png", "height": SIZE, "width": SIZE})


def build_cams_item(number: int, random: np.random.Generator) -> Item:
    """Return the CAMs of two classes, the first being that of the mask."""
    rows = random.random((2, GRID, GRID)) * 0.4
    rows[0] += draw_truth(number)[::SIZE // GRID, ::SIZE // GRID] > 0
    rows /= rows.max((1, 2), keepdims=True)
    ids = np.array([1 + number % 20, 1 + (number + 1) % 20], np.uint16)
    return Item(f"image_{number:08d}", {"class_ids": ids, "cam": rows.astype(np.float16)},
                {"height": SIZE, "width": SIZE, "covers": np.array([SIZE, SIZE])})


def write_shards(folder: Path, num_shards: int, num_images: int) -> None:
    """Write the index and the CAM run."""
    entry = provenance_entry("index", "table", {"pack": True, "supervision": "tags"}, {})
    index_items = [build_index_item(number) for number in range(num_shards * num_images)]
    index = ShardContents("index", CLASSES, index_items, provenance=[entry], root_attrs={"root": "."},
                          image_records=build_image_records(index_items))
    digest = write_shard(folder / "index.h5", index)
    cams_entry = provenance_entry("cams", "cnn", {}, {"index": digest})
    (folder / "cams").mkdir(exist_ok=True)
    for part in range(num_shards):
        random = np.random.default_rng(part)
        items = [build_cams_item(number, random) for number in range(part * num_images, (part + 1) * num_images)]
        write_shard(folder / "cams" / shard_name("cams", part, num_shards), ShardContents(
            "cams", CLASSES, items, part=part, parts=num_shards, provenance=[entry, cams_entry], index_digest=digest,
            index_path="../index.h5", root_attrs={"background": "none"}))


def time_command(folder: Path, *arguments: object) -> tuple[float, float, int]:
    """Run a wsss command; return its wall seconds, its CPU seconds, and the memory of its largest process in kB."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "wsss_cli", *map(str, arguments)], cwd=folder, env=environment,
                               stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"wsss {' '.join(map(str, arguments))} exited with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def list_commands(jobs: int) -> Iterator[tuple[object, ...]]:
    """Yield the arguments of the commands to measure."""
    yield "pseudo", "cams", "-o", "masks", "-j", jobs, "-f", "-q"
    yield "pseudo", "cams", "-o", "masks", "-j", jobs, "-q"  # up to date
    yield "eval", "masks", "-q", "-o", "masks.json"
    yield "eval", "cams", "-q", "-o", "cams.json"


def main() -> None:
    """Write missing shards, run the commands and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        if not (folder / "cams" / shard_name("cams", arguments.shards - 1, arguments.shards)).exists():
            write_shards(folder, arguments.shards, arguments.images)
            print(f"wrote {arguments.shards} shards of {arguments.images} images in {time.monotonic() - start:.0f} s")
        for command in list_commands(arguments.jobs):
            seconds, cpu_seconds, memory = time_command(folder, *command)
            record_results(Result(" ".join(map(str, command)), arguments.shards * arguments.images / cpu_seconds,
                                  "images/s", higher_is_better=True))
            print(f"{' '.join(map(str, command)):40s} {seconds:7.1f} s, {cpu_seconds:6.1f} s of CPU time: "
                  f"{arguments.shards * arguments.images / cpu_seconds:5.0f} images/s; {memory / 1024:4.0f} MB",
                  flush=True)
        for name in ("index.h5", "cams", "masks"):
            files = [folder / name] if name.endswith(".h5") else sorted((folder / name).glob("*.h5"))
            print(f"{name}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
