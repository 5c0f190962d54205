"""What `wsss cooc` costs on an index as large as VOC's augmented train set, beside an interpreter that has imported
h5py and numpy: seconds of a process.

    python benchmarks/cooc.py [--images 10582] [--rounds 5]

The programs take turns; the least of all rounds counts. Bound: 2 s of wall time for `wsss cooc`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stages.shards import Contents, Item, provenance_entry, write_shard

ROOT = Path(__file__).resolve().parents[1]
BOUND = 2
CLASSES = ("background", *(f"class {number}" for number in range(1, 21)))


def make(path: Path, images: int) -> None:
    """Write an index of images with one to three tags, as VOC's have."""
    draws = np.random.default_rng(0)
    labels = (np.sort(draws.choice(20, draws.choice([1, 2, 3], p=[0.6, 0.3, 0.1]), replace=False)) + 1
              for _ in range(images))
    items = [Item(f"{number:08d}", {"labels": row.astype(np.uint16)}, {"path": f"{number:08d}.jpg"})
             for number, row in enumerate(labels)]
    entry = provenance_entry("index", "table", {"supervision": "tags"}, {})
    write_shard(path, Contents("index", CLASSES, items, provenance=[entry], root_attrs={"root": "."}))


def seconds(words: tuple[str, ...]) -> tuple[float, float]:
    """Return (wall, processor) seconds of a process."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, processor


def main() -> int:
    """Measure, print a table, and return 1 where the bound is not met."""
    words = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].split()))
    words.add_argument("--images", type=int, default=10582)
    words.add_argument("--rounds", type=int, default=5)
    given = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "index.h5"), given.images)
        programs = {"h5py, numpy": ("-c", "import h5py, numpy"),
                    "wsss cooc": ("-m", "wsss_cli", "cooc", f"{folder}/index.h5", "-fqo", f"{folder}/cooc.h5")}
        taken = [{name: seconds(program) for name, program in programs.items()} for _ in range(given.rounds)]
    least = {name: tuple(min(one[name][place] for one in taken) for place in (0, 1)) for name in programs}
    print(f"{given.images} images\n{'program':12s} {'wall s':>7s} {'CPU s':>7s}")
    for name, (wall, processor) in least.items():
        print(f"{name:12s} {wall:7.3f} {processor:7.3f}")
    met = least["wsss cooc"][0] < BOUND
    print(f"wsss cooc under {BOUND} s: {'met' if met else 'NOT MET'}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
