"""Score masks image by image: the mIoU of each image alone, and the images of the lowest.

    python image_scores.py "CAM=cam-png" "FMix=fmix-png" --truth VOC2012/SegmentationClass -o scores.csv --worst 4

A column is NAME=FOLDER, PNG files of class ids as `wsss export png` writes them. The score is that of `wsss eval` on
this image alone: the mean IoU over the classes in the truth or the mask, where 255 in the truth does not count and 255
in a mask is a miss. Writes a row for each image of the first folder, and prints the ids of the `--worst` of the first
column, separated by commas, as `wsss show --ids` takes them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from figure_style import write_csv
from PIL import Image

IGNORED = 255


def read_ids(path: Path) -> np.ndarray:
    """Return the class ids (H, W) of a PNG. Raises OSError, or ValueError for a picture without class ids."""
    with Image.open(path) as picture:
        if picture.mode not in ("P", "L"):
            raise ValueError(f"{path} is a picture of mode {picture.mode}, not of 8-bit class ids")
        return np.asarray(picture)


def image_miou(mask: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the mIoU in percent of a mask (H, W) of one image; None where the truth says nothing."""
    counted = truth != IGNORED
    mask, truth = mask[counted], truth[counted]
    classes = sorted({*np.unique(mask).tolist(), *np.unique(truth).tolist()} - {IGNORED})
    overlaps = [((mask == label) & (truth == label)).sum() / ((mask == label) | (truth == label)).sum()
                for label in classes]
    return 100 * float(np.mean(overlaps)) if overlaps and truth.size else None


def score_images(columns: dict[str, Path], truths: Path) -> list[tuple[str, list[float | None]]]:
    """Return (id, score in each column) of each image of the first. Raises OSError, ValueError."""
    first = next(iter(columns.values()))
    ids = sorted(path.relative_to(first).with_suffix("").as_posix() for path in first.rglob("*.png"))
    if not ids:
        raise ValueError(f"{first} holds no PNG; make them with wsss export png")
    rows = []
    for item_id in ids:
        truth = read_ids(truths / f"{item_id}.png")
        scores = []
        for name, folder in columns.items():
            mask = read_ids(folder / f"{item_id}.png")
            if mask.shape != truth.shape:
                raise ValueError(f"{item_id}: the mask of {name} is {mask.shape}, the truth {truth.shape}")
            scores.append(image_miou(mask, truth))
        rows.append((item_id, scores))
    return rows


def worst_images(rows: list[tuple[str, list[float | None]]], count: int) -> list[str]:
    """Return the ids of the `count` lowest scores of the first column, the lowest first."""
    scored = [(scores[0], item_id) for item_id, scores in rows if scores[0] is not None]
    return [item_id for _, item_id in sorted(scored)[:count]]


def main() -> int:
    """Parse the command line, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("columns", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--truth", type=Path, required=True, metavar="FOLDER", help="the true masks, as PNG")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="print the ids of so many")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.csv")
    arguments = parser.parse_args()
    try:
        pairs = [text.partition("=") for text in arguments.columns]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"{arguments.columns} are not all NAME=FOLDER")
        columns = {name: Path(folder) for name, _, folder in pairs}
        rows = score_images(columns, arguments.truth)
        write_csv(arguments.output, ("id", *columns), [
            (item_id, *("" if score is None else f"{score:.4f}" for score in scores)) for item_id, scores in rows])
    except (OSError, ValueError) as error:
        print(f"image_scores.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    if arguments.worst:
        print(",".join(worst_images(rows, arguments.worst)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
