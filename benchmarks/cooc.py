"""Measure `wsss cooc` on an index as large as VOC's augmented train set, compared with an interpreter that only imports
h5py and numpy.

    python benchmarks/cooc.py [--images 10582] [--rounds 5]

The programs take turns, and the fastest round of each counts. Bound: 2 s of wall time for `wsss cooc`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from processes import compare_programs

from stages.shards import Item, ShardContents, build_image_records, provenance_entry, write_shard

MAX_SECONDS = 2
CLASSES = ("background", *(f"class {number}" for number in range(1, 21)))


def write_index(path: Path, num_images: int) -> None:
    """Write an index of images with one to three tags, like those of VOC."""
    draws = np.random.default_rng(0)
    labels = (np.sort(draws.choice(20, draws.choice([1, 2, 3], p=[0.6, 0.3, 0.1]), replace=False)) + 1
              for _ in range(num_images))
    items = [Item(f"{number:08d}", {"labels": row.astype(np.uint16)}, {"path": f"{number:08d}.jpg"})
             for number, row in enumerate(labels)]
    entry = provenance_entry("index", "table", {"supervision": "tags"}, {})
    write_shard(path, ShardContents("index", CLASSES, items, provenance=[entry], root_attrs={"root": "."},
                                    image_records=build_image_records(items)))


def main() -> int:
    """Measure, print a table, and return 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(description=" ".join(__doc__.split("\n\n")[0].split()))
    parser.add_argument("--images", type=int, default=10582)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder, "index.h5"), arguments.images)
        programs = {"h5py, numpy": ("-c", "import h5py, numpy"),
                    "wsss cooc": ("-m", "wsss_cli", "cooc", f"{folder}/index.h5", "-fqo", f"{folder}/cooc.h5")}
        print(f"{arguments.images} images")
        return compare_programs(programs, arguments.rounds, "wsss cooc", MAX_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
