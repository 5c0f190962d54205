"""Tabulate the confidence of masks: the share of pixels between thresholds (CLIP-ES, table S3).

    python confidence_bins.py 0.5=png-0.5 0.8=png-0.8 0.95=png-0.95 -o frequency.csv

Each THRESHOLD=FOLDER holds the PNG files that `wsss export png` writes of `wsss pseudo --min-confidence THRESHOLD`, in
which pixels of lower confidence are 255. All pixels count, also those that the ground truth ignores.
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


def count_unsure_pixels(folder: Path) -> tuple[int, int, int]:
    """Return (images, pixels, pixels below the threshold) of a folder. Raises OSError, ValueError."""
    num_images = num_pixels = num_unsure = 0
    for mask in map(read_ids, sorted(folder.rglob("*.png"))):
        num_images += 1
        num_pixels += mask.size
        num_unsure += int(np.count_nonzero(mask == IGNORED))
    if not num_images:
        raise ValueError(f"{folder} has no PNG files. Write them with `wsss export png`.")
    return num_images, num_pixels, num_unsure


def compute_rows(folders: dict[float, Path]) -> list[tuple[str, int, str]]:
    """Return (range, pixels, share in percent) for each range between thresholds. Raises OSError, ValueError."""
    counts = {threshold: count_unsure_pixels(folder) for threshold, folder in sorted(folders.items())}
    if len({(num_images, num_pixels) for num_images, num_pixels, _ in counts.values()}) > 1:
        raise ValueError("the folders have different images. Write all of them from the same run.")
    num_total = next(iter(counts.values()))[1]
    edges = [(0.0, 0), *((threshold, num_unsure) for threshold, (_, _, num_unsure) in counts.items()), (1.0, num_total)]
    rows = []
    for (low, num_below_low), (high, num_below_high) in pairwise(edges):
        num_between = num_below_high - num_below_low
        rows.append((f"{low:g}-{high:g}", num_between, f"{100 * num_between / num_total:.4f}"))
    return rows


def main() -> int:
    """Write and print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="THRESHOLD=FOLDER")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.csv")
    arguments = parser.parse_args()
    try:
        pairs = [text.partition("=") for text in arguments.folders]
        rows = compute_rows({float(threshold): Path(folder) for threshold, _, folder in pairs})
        write_csv(arguments.output, HEADER, rows)
    except (OSError, ValueError) as error:
        print(f"confidence_bins.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    for row in (HEADER, *rows):
        print(*row, sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main())
