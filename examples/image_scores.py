"""Compute the mIoU of each image, and find the images with the lowest.

    python image_scores.py "CAM=cam-png" "FMix=fmix-png" --truth VOC2012/SegmentationClass -o scores.csv --worst 4

Each NAME=FOLDER is a column and holds PNG files of class ids, as written by `wsss export png`. The score is that of
`wsss eval` on a single image: the mean IoU over the classes in the ground truth or the mask, where 255 in the ground
truth does not count and 255 in a mask is a miss. Writes a row for each image of the first folder, and prints the ids of
the `--worst` images of the first column, separated by commas, for `wsss show --ids`.
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
    """Return the class ids (H, W) of a PNG. Raises OSError, or ValueError if it has no class ids."""
    with Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"{path} is an image of mode {image.mode} and not a mask of 8-bit class ids")
        return np.asarray(image)


def compute_image_miou(mask: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the mIoU in percent of a mask (H, W), or None if the ground truth ignores all pixels."""
    is_counted = truth != IGNORED
    mask, truth = mask[is_counted], truth[is_counted]
    classes = sorted({*np.unique(mask).tolist(), *np.unique(truth).tolist()} - {IGNORED})
    overlaps = [((mask == label) & (truth == label)).sum() / ((mask == label) | (truth == label)).sum()
                for label in classes]
    return 100 * float(np.mean(overlaps)) if overlaps and truth.size else None


def score_images(columns: dict[str, Path], truths: Path) -> list[tuple[str, list[float | None]]]:
    """Return (id, score in each column) for each image of the first column. Raises OSError, ValueError."""
    first = next(iter(columns.values()))
    ids = sorted(path.relative_to(first).with_suffix("").as_posix() for path in first.rglob("*.png"))
    if not ids:
        raise ValueError(f"{first} has no PNG files. Write them with `wsss export png`.")
    rows = []
    for item_id in ids:
        truth = read_ids(truths / f"{item_id}.png")
        scores = []
        for name, folder in columns.items():
            mask = read_ids(folder / f"{item_id}.png")
            if mask.shape != truth.shape:
                raise ValueError(f"{item_id}: the mask of {name} has the size {mask.shape}, but the ground truth has "
                                 f"{truth.shape}")
            scores.append(compute_image_miou(mask, truth))
        rows.append((item_id, scores))
    return rows


def select_worst_images(rows: list[tuple[str, list[float | None]]], count: int) -> list[str]:
    """Return the ids of the `count` lowest scores in the first column, in increasing order."""
    scored = [(scores[0], item_id) for item_id, scores in rows if scores[0] is not None]
    return [item_id for _, item_id in sorted(scored)[:count]]


def main() -> int:
    """Write the scores, print the worst images, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("columns", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--truth", type=Path, required=True, metavar="FOLDER",
                        help="Folder of the ground-truth masks, as PNG files.")
    parser.add_argument("--worst", type=int, default=0, metavar="N",
                        help="Number of images with the lowest scores to print.")
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FILE.csv")
    arguments = parser.parse_args()
    try:
        pairs = [text.partition("=") for text in arguments.columns]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"{arguments.columns} do not all have the form NAME=FOLDER")
        columns = {name: Path(folder) for name, _, folder in pairs}
        rows = score_images(columns, arguments.truth)
        write_csv(arguments.output, ("id", *columns), [
            (item_id, *("" if score is None else f"{score:.4f}" for score in scores)) for item_id, scores in rows])
    except (OSError, ValueError) as error:
        print(f"image_scores.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    if arguments.worst:
        print(",".join(select_worst_images(rows, arguments.worst)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
