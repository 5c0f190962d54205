"""Measure `pseudo` and `eval` on masks of 500 x 375 pixels, beside what compressing and decoding them alone takes.

    python benchmarks/masks.py [--images 400]

CPU seconds of one process and one thread. What starting takes is left out: the same command is also run on a tenth of
the images, and the difference counts.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from results import Result, record_results
from scale import CLASSES, time_command

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.kernels.resample import upsample
from stages.shards import Item, Run, ShardContents, build_image_records, provenance_entry, write_shard

HEIGHT, WIDTH, GRID = 375, 500, (47, 63)
GOAL = 1000  # masks per second


def draw_maps(number: int) -> np.ndarray:
    """Return two smooth maps (2, 47, 63) float32 with noise, as a network gives them."""
    random = np.random.default_rng(number)
    coarse = random.random((2, 6, 8), dtype=np.float32) ** 2
    maps = upsample(coarse, GRID, GRID) + random.random((2, *GRID), dtype=np.float32) * 0.03
    return maps / maps.max((1, 2), keepdims=True)


def encode_truth(maps: np.ndarray, class_id: int) -> bytes:
    """Return the PNG of a mask that is like the pseudo mask of `maps`."""
    rows = upsample(maps, (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    stream = io.BytesIO()
    Image.fromarray(np.where(rows[0] > 0.4, class_id, 0).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_inputs(folder: Path, num_images: int) -> None:
    """Write an index with packed masks, and CAMs in one shard."""
    folder.mkdir()
    index_items, cam_items = [], []
    for number in range(num_images):
        name, class_id, maps = f"{number:06d}", 1 + number % 20, draw_maps(number)
        index_items.append(Item(name, {"labels": np.array([class_id], np.uint16),
                                       "mask": np.frombuffer(encode_truth(maps, class_id), np.uint8)},
                                {"path": f"{name}.jpg", "mask_path": f"{name}.png", "height": HEIGHT, "width": WIDTH}))
        cam_items.append(Item(name, {"class_ids": np.array([class_id, 1 + class_id % 20], np.uint16),
                                     "cam": maps.astype(np.float16)},
                              {"height": HEIGHT, "width": WIDTH, "covers": np.array([HEIGHT, WIDTH])}))
    entry = provenance_entry("index", "table", {"pack": True, "supervision": "tags"}, {})
    digest = write_shard(folder / "index.h5", ShardContents("index", CLASSES, index_items, provenance=[entry],
                                                            root_attrs={"root": "."},
                                                            image_records=build_image_records(index_items)))
    write_shard(folder / "cams.h5", ShardContents(
        "cams", CLASSES, cam_items, provenance=[entry, provenance_entry("cams", "cnn", {}, {"index": digest})],
        index_digest=digest, index_path="index.h5", root_attrs={"background": "none"}))


def measure_floor(path: Path) -> float:
    """Return the seconds that zlib takes to compress a mask and its confidence and to read them back."""
    run = Run([path], "masks")
    items = [run.item(item_id).datasets for item_id in run.ids]
    start = time.process_time()
    for item in items:
        for name in ("mask", "confidence"):
            zlib.decompress(zlib.compress(item[name].tobytes(), 4))
    return (time.process_time() - start) / len(items)


def main() -> int:
    """Measure and print; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    arguments = parser.parse_args()
    counts = {"few": max(1, arguments.images // 10), "all": arguments.images}
    seconds: dict[str, list[float]] = {"pseudo": [], "eval": []}
    with tempfile.TemporaryDirectory() as temporary:
        for name, num_images in counts.items():
            folder = Path(temporary, name)
            write_inputs(folder, num_images)
            seconds["pseudo"].append(time_command(folder, "pseudo", "cams.h5", "-o", "masks.h5", "-j", 1, "-q")[1])
            seconds["eval"].append(time_command(folder, "eval", "masks.h5", "-q", "-o", "eval.json")[1])
        floor = measure_floor(Path(temporary, "all", "masks.h5"))
    more = counts["all"] - counts["few"]
    results = [Result(f"{command}, 500 x 375 pixels", more / (long - short), "masks/s", GOAL, higher_is_better=True)
               for command, (short, long) in seconds.items()]
    results.append(Result("compressing and reading back a mask and its confidence alone", 1 / floor, "masks/s",
                          higher_is_better=True))
    for result in results:
        print(f"{result.name:62s} {result.value:7.0f} {result.unit}  {result.describe_goal()}")
    return record_results(*results)


if __name__ == "__main__":
    sys.exit(main())
