"""Compare the engines of the dense CRF on photographs: processor time, and how far results differ from numba's.

`python benchmarks/crf.py [--data FOLDER] [--images 50]`, where FOLDER has JPEGImages and SegmentationClass as VOC 2012
does. The scores are the blurred masks with smooth noise, as class activation maps are. Prints one JSON line per preset.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from stages.kernels.dense_crf import CRF_PRESETS, ENGINES, dense_crf, unary_from_labels, unary_from_scores

GOALS = {"clip-es": 3.0, "irn": 2.5}
MAX_CLASSES = 4
MAX_MEAN_DIFFERENCE, MAX_CHANGED_SHARE = 1e-6, 1e-5


def read_example(image_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (H, W, 3) uint8 and scores (K+1, H, W) like those of CAMs, the background first."""
    image = np.array(Image.open(image_path).convert("RGB"))
    mask = np.array(Image.open(image_path.parents[1] / "SegmentationClass" / f"{image_path.stem}.png"))
    generator = np.random.default_rng(image.size)
    maps = []
    for class_id in [value for value in np.unique(mask) if 0 < value < 255][:MAX_CLASSES]:
        noise = gaussian_filter(generator.random(mask.shape, np.float32), 12)
        blurred = gaussian_filter((mask == class_id).astype(np.float32), 16)
        blurred *= 0.6 + 0.8 * (noise - noise.min()) / (np.ptp(noise) + 1e-9)
        maps.append((blurred / blurred.max()).clip(0, 1))
    background = (1 - np.max(maps, axis=0)) ** 1.5
    return image, np.stack([background, *maps]).astype(np.float32)


@dataclass
class Differences:
    """How far the posteriors of an engine differ from those of numba."""

    changed_labels: int = 0
    max_difference: float = 0.0
    largest_mean_difference: float = 0.0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Count the posteriors (L, H, W) of an image."""
        difference = np.abs(first - second)
        self.changed_labels += int((first.argmax(axis=0) != second.argmax(axis=0)).sum())
        self.max_difference = max(self.max_difference, float(difference.max()))
        self.largest_mean_difference = max(self.largest_mean_difference, float(difference.mean()))


def compare_engines(paths: list[Path], preset: str) -> dict[str, float]:
    """Return the mean milliseconds of each engine, best of two runs in turn, and the differences of their results."""
    seconds, wall_seconds, ratios = dict.fromkeys(ENGINES, 0.0), dict.fromkeys(ENGINES, 0.0), []
    num_pixels, differences = 0, {engine: Differences() for engine in ENGINES[1:]}
    for path in paths:
        image, scores = read_example(path)
        unary = (unary_from_labels(scores.argmax(axis=0), len(scores)) if preset == "irn"
                 else unary_from_scores(scores))
        best, best_wall, posteriors = dict.fromkeys(ENGINES, np.inf), dict.fromkeys(ENGINES, np.inf), {}
        for engine in ENGINES * 2:
            start, wall_start = time.process_time(), time.perf_counter()
            posteriors[engine] = dense_crf(image, unary, CRF_PRESETS[preset], engine)
            best[engine] = min(best[engine], time.process_time() - start)
            best_wall[engine] = min(best_wall[engine], time.perf_counter() - wall_start)
        for engine in ENGINES:
            seconds[engine] += best[engine]
            wall_seconds[engine] += best_wall[engine]
        ratios.append(best["pydensecrf"] / best["numba"])
        num_pixels += unary[0].size
        for engine, difference in differences.items():
            difference.add(posteriors["numba"], posteriors[engine])
    milliseconds = {f"{engine}_cpu_ms": round(1000 * seconds[engine] / len(paths), 1) for engine in ENGINES}
    wall = {f"{engine}_wall_ms": round(1000 * wall_seconds[engine] / len(paths), 1) for engine in ENGINES}
    return {"images": len(paths), **milliseconds, **wall,
            "ratio": round(seconds["pydensecrf"] / seconds["numba"], 2), "goal": GOALS[preset],
            "lowest_ratio": round(min(ratios), 2), "pixels": num_pixels,
            **{f"{engine}_{name}": value for engine, difference in differences.items()
               for name, value in vars(difference).items()}}


def main() -> int:
    """Print the comparison; return 1 if results differ by more than the bound, 0 also where photographs are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/voc920"))
    parser.add_argument("--images", type=int, default=50)
    options = parser.parse_args()
    paths = sorted((options.data / "JPEGImages").glob("*.jpg"))
    try:
        from pydensecrf import densecrf  # noqa: F401
    except ImportError:
        print("skipped: pydensecrf is not installed")
        return 0
    if not paths:
        print(f"skipped: no photographs in {options.data / 'JPEGImages'}")
        return 0
    paths = paths[::max(1, len(paths) // options.images)][:options.images]
    dense_crf(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 2), np.float32), CRF_PRESETS["irn"])
    is_equal = True
    for preset in GOALS:
        row = compare_engines(paths, preset)
        print(json.dumps({"preset": preset, **row, "load": round(os.getloadavg()[0], 1)}), flush=True)
        for engine in ENGINES[1:]:
            is_equal &= row[f"{engine}_changed_labels"] <= MAX_CHANGED_SHARE * row["pixels"]
            is_equal &= row[f"{engine}_largest_mean_difference"] <= MAX_MEAN_DIFFERENCE
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
