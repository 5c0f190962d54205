"""Measure how long trainings wait for images: the loader should never be slower than the network.

    python benchmarks/training.py [--images 64] [--epochs 3]

Runs every kind of training on drawn photographs of 500 x 375 pixels (JPEG), with the networks and crops that are the
defaults, one thread for the network and two for images, and reads from the log how many of its seconds a training
waited for images. The first epoch is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from results import Result, record_results

ROOT = Path(__file__).resolve().parents[1]
MAX_SHARE = 0.05
CLASSES = ("cat", "dog", "car")


def write_photographs(folder: Path, number: int) -> None:
    """Write photographs of smooth noise, masks, tags and captions."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    with (folder / "tags.csv").open("w", newline="") as tags:
        writer = csv.writer(tags)
        writer.writerow(("id", "labels", "caption"))
        for position in range(number):
            random = np.random.default_rng(position)
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / "images" / f"{position}.jpg", quality=92)
            mask = np.zeros((375, 500), np.uint8)
            mask[80:300, 100:400] = 1 + position % 3
            Image.fromarray(mask).save(folder / "masks" / f"{position}.png")
            writer.writerow((position, CLASSES[position % 3], f"A {CLASSES[position % 3]} on the grass"))
    (folder / "classes.txt").write_text("\n".join(CLASSES))


def run_wsss(folder: Path, *words: object) -> None:
    """Run a command with one thread. Ends the program if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "wsss_cli", *map(str, words)], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"wsss {' '.join(map(str, words))}: {done.stderr[-1000:]}")


def measure_training(folder: Path, name: str, *words: object) -> tuple[float, float]:
    """Return (seconds of an epoch, share of them spent waiting for images), without the first epoch."""
    run_wsss(folder, *words, "--threads", 1, "--workers", 2, "--device", "cpu", "-q", "-o", f"{name}.safetensors")
    lines = [json.loads(line) for line in (folder / f"{name}.log.jsonl").read_text().splitlines()][1:]
    seconds, waited = (sum(line[key] for line in lines) for key in ("seconds", "waited"))
    return seconds / len(lines), waited / seconds


def main() -> int:
    """Measure and print; return 1 if a training waits too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    epochs = ("--epochs", arguments.epochs, "--batch-size", 8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder, arguments.images)
        run_wsss(folder, "index", "table", "tags.csv", "--images", "images", "--masks", "masks", "--class-names",
                 "classes.txt", "-q", "-o", "train.h5")
        trainings = {
            "cls": ("train-cls", "cam", "train.h5", "--stride", 16, *epochs, "--keep-going"),
            "seg": ("train-seg", "train.h5", "--masks", "truth", "--stride", 16, *epochs),
        }
        results = []
        for name, words in trainings.items():
            seconds, share = measure_training(folder, name, *words)
            results += [Result(f"{words[0]}, seconds an epoch", seconds, "s"),
                        Result(f"{words[0]}, share of the time spent waiting for images", share, "ratio", MAX_SHARE)]
        run_wsss(folder, "cams", "cnn", "train.h5", "--net", "cls.safetensors", "--scales", "1", "-q", "-o", "cams")
        for method in ("psa", "irn"):
            seconds, share = measure_training(folder, method, "train-aff", method, "train.h5", "--cams", "cams",
                                              "--weights", "cls.safetensors", *epochs)
            results += [Result(f"train-aff {method}, seconds an epoch", seconds, "s"),
                        Result(f"train-aff {method}, share of the time spent waiting for images", share, "ratio",
                               MAX_SHARE)]
    for result in results:
        print(f"{result.name:62s} {result.value:8.3f} {result.unit:6s} {result.describe_goal()}")
    return record_results(*results)


if __name__ == "__main__":
    sys.exit(main())
