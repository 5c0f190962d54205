"""What `wsss cooc` costs on an index as large as VOC's augmented train set, beside an interpreter that has imported
h5py and numpy: seconds of a process.

    python benchmarks/cooc.py [--images 10582] [--rounds 5]

The programs take turns; the least of all rounds counts. Bound: 2 s of wall time for `wsss cooc`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from processes import compared

from stages.shards import Contents, Item, provenance_entry, write_shard

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
        print(f"{given.images} images")
        return compared(programs, given.rounds, "wsss cooc", BOUND)


if __name__ == "__main__":
    sys.exit(main())
