"""Tabulate how sure masks are: the share of pixels between thresholds of the confidence (CLIP-ES, table S3).

    python confidence_bins.py 0.5=png-0.5 0.8=png-0.8 0.95=png-0.95 -o frequency.csv

A folder is THRESHOLD=FOLDER, PNG files that `wsss export png` writes of `wsss pseudo --min-confidence THRESHOLD`: the
pixels of less confidence are 255 in it. All pixels count, also those at which the truth says nothing.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from figure_style import write_csv
from image_scores import IGNORED, read_ids

HEADER = ("confidence", "pixels", "frequency_percent")


def count_unsure(folder: Path) -> tuple[int, int, int]:
    """Return (images, pixels, pixels below the threshold) of a folder. Raises OSError, ValueError."""
    images = pixels = unsure = 0
    for mask in map(read_ids, sorted(folder.rglob("*.png"))):
        images, pixels, unsure = images + 1, pixels + mask.size, unsure + int(np.count_nonzero(mask == IGNORED))
    if not images:
        raise ValueError(f"{folder} holds no PNG; make them with wsss export png")
    return images, pixels, unsure


def confidence_rows(folders: dict[float, Path]) -> list[tuple[str, int, str]]:
    """Return (range, pixels, share in percent) of each range between thresholds. Raises OSError, ValueError."""
    counts = {threshold: count_unsure(folder) for threshold, folder in sorted(folders.items())}
    if len({(images, pixels) for images, pixels, _ in counts.values()}) > 1:
        raise ValueError("the folders differ in their images; make them from one run")
    total = next(iter(counts.values()))[1]
    edges = [(0.0, 0), *((threshold, unsure) for threshold, (_, _, unsure) in counts.items()), (1.0, total)]
    return [(f"{low:g}-{high:g}", upto - below, f"{100 * (upto - below) / total:.4f}")
            for (low, below), (high, upto) in pairwise(edges)]


def main() -> int:
    """Parse the command line, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="THRESHOLD=FOLDER")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.csv")
    arguments = parser.parse_args()
    try:
        pairs = [text.partition("=") for text in arguments.folders]
        rows = confidence_rows({float(threshold): Path(folder) for threshold, _, folder in pairs})
        write_csv(arguments.output, HEADER, rows)
    except (OSError, ValueError) as error:
        print(f"confidence_bins.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    for row in (HEADER, *rows):
        print(*row, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
