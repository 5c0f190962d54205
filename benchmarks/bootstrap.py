"""Measure how often the intervals of `wsss eval A B` hold the true difference, and what 100,000 images cost.

    python benchmarks/bootstrap.py [--experiments 1000] [--draws 1000]

The population are 20,000 images, each with a background and one of three classes of random size, and two runs that find
60 and 65 % of an object on average (standard deviation 20 points). The true difference of their mIoU is that of all
images. In each experiment 50, 100 or 471 of them are drawn, and the interval at 95 % is computed. Of 1,000 experiments
the binomial noise of the share is 0.7 points. The cost is that of two runs of images with 4 of 81 classes.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kernels.test_paired_bootstrap import draw_counts
from stages.eval.config import EvalConfig
from stages.eval.details import resample_group
from stages.eval.image_counts import ImageCounts
from stages.eval.image_tables import encode_image_table
from stages.kernels.mean_iou import PixelCounts
from stages.kernels.paired_bootstrap import compute_mean_iou, compute_paired_difference

POPULATION, SIZES = 20_000, (50, 100, 471)
NUM_IMAGES, NUM_CLASSES, CLASSES_PER_IMAGE = 100_000, 81, 4


@dataclass(frozen=True)
class CountedRun:
    """What was counted on the images of a run, without the optional scores."""

    counts: ImageCounts
    boundary_counts: ImageCounts
    calibration: None = None


def measure_coverage(num_experiments: int, draws: int) -> None:
    """Print a row per number of images: the share of intervals that hold the true difference."""
    random = np.random.default_rng(1)
    counts_a, counts_b = (draw_counts(random, POPULATION, quality) for quality in (0.6, 0.65))
    truth = float(compute_mean_iou(counts_b.sum(axis=0)) - compute_mean_iou(counts_a.sum(axis=0)))
    print("images\tcoverage of the 95 % interval")
    for size in SIZES:
        num_covered = 0
        for seed in range(num_experiments):
            sample = random.integers(POPULATION, size=size)
            low, high = compute_paired_difference(counts_a[sample], counts_b[sample], draws, seed).interval
            num_covered += low <= truth <= high
        print(f"{size}\t{num_covered / num_experiments:.1%}")


def count_random_images(seed: int) -> CountedRun:
    """Return random counts of NUM_IMAGES images."""
    random, counts = np.random.default_rng(seed), ImageCounts(NUM_CLASSES)
    for _ in range(NUM_IMAGES):
        pixels = np.zeros((3, NUM_CLASSES), np.int64)
        labels = random.choice(NUM_CLASSES, CLASSES_PER_IMAGE, replace=False)
        pixels[1, labels] = random.integers(1000, 90000, CLASSES_PER_IMAGE)
        pixels[0] = pixels[1] // 2
        pixels[2, labels] = pixels[0, labels] + random.integers(0, 9000, CLASSES_PER_IMAGE)
        counts.add(PixelCounts(*pixels))
    return CountedRun(counts, ImageCounts(NUM_CLASSES))


def measure_cost() -> None:
    """Print the time and the peak memory, beyond that of the imports, after each step."""
    def report(step: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{step}\t{time.process_time() - start:.1f} s\t{peak - base} MB")

    start, base = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    runs = [[count_random_images(seed)] for seed in range(2)]
    report(f"counts of {NUM_IMAGES:,} images, two runs")
    classes = tuple(f"class {index}" for index in range(NUM_CLASSES))
    for seeds in runs:
        resample_group(EvalConfig(), classes, seeds)
    report("and 2,000 draws of both")
    encode_image_table(Path("images.csv"), ("A", "B"), classes, runs, list(map(str, range(NUM_IMAGES))))
    report("and the table of images")


def main() -> None:
    """Print both tables: the cost first, since memory that was used before is not given back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    measure_cost()
    measure_coverage(arguments.experiments, arguments.draws)


if __name__ == "__main__":
    main()
