"""Measure how much ExCEL costs compared with the bare image tower, in CPU seconds within one run.

    python benchmarks/excel.py [--side 320] [--rounds 5] [--device cpu|cuda] [--batch 1]

A ViT-B/16 with seeded random weights; the bare tower is open_clip's own forward pass on the same square. The CAMs of
two classes include everything after decoding: both streams, the maps of all words, boxes, affinity; CLIP-ES on the same
square computes a gradient for each class instead. Ratios are to the tower in float32. On a GPU wall time is measured,
on batches, and ratios are to the tower of the same precision.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clip_es import build_bare_tower, measure_seconds
from results import Result, record_results

from stages.cams import clip_es, excel
from stages.cams.config import ClipEsConfig, ExcelConfig
from stages.flow.device import use_threads
from stages.nets.clip import find_clip, load_clip

# Largest allowed ratio to the bare tower in float32.
MAX_RATIOS = {"excel fp32": 1.15}
IDS = np.array([1, 2])


def draw_unit_vectors(count: int, device: torch.device) -> torch.Tensor:
    """Draw seeded unit vectors (count, 512)."""
    generator = torch.Generator().manual_seed(count)
    return F.normalize(torch.randn(count, 512, generator=generator), dim=-1).to(device)


def build_calls(side: int, batch: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name; "bare" and "bare half" are the towers alone."""
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    visual, source = build_bare_tower((side, side), device), find_clip("ViT-B-16-quickgelu", "random")
    half = torch.bfloat16 if device.type == "cpu" else torch.float16
    half_visual, half_images = copy.deepcopy(visual).to(half), images.to(half)
    tower, half_tower = (load_clip(source, device=device, dtype=dtype).vision for dtype in (torch.float32, half))
    classes, background = draw_unit_vectors(20, device), draw_unit_vectors(25, device)
    words = excel.WordVectors(classes, background, classes, 100.0)
    text = clip_es.TextFeatures(classes[None], background, 100.0)

    def run_excel(vision: object) -> object:
        return excel.compute_cams(vision, images, words, ExcelConfig(), lambda _position, _scores: IDS)

    return {"bare": lambda: visual(images), "bare half": lambda: half_visual(half_images),
            "excel fp32": lambda: run_excel(tower), "excel half": lambda: run_excel(half_tower),
            "clip-es fp32": lambda: clip_es.compute_cams(tower, [images], text, ClipEsConfig(), 0.4,
                                                         lambda _position, _scores: IDS)}


def main() -> int:
    """Measure all forms, print the medians without the first round, and return 1 if a ratio is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    use_threads(1)
    device = torch.device(arguments.device)
    calls = build_calls(arguments.side, arguments.batch, device)
    timings: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(arguments.rounds + 1):  # interleaved, so that other load on the machine affects all alike
            for name, call in calls.items():
                timings[name].append(measure_seconds(call, device))
    medians = {name: statistics.median(values[1:]) for name, values in timings.items()}
    results = []
    for name, seconds in medians.items():
        bare = medians["bare half" if device.type == "cuda" and name.endswith("half") else "bare"]
        print(f"{name:14} {seconds:9.4f} s {seconds / bare:7.3f} {arguments.batch / seconds:9.2f} images/s")
        if not name.startswith("bare"):
            bound = MAX_RATIOS.get(name) if device.type == "cpu" else None
            results.append(Result(f"{name}, 2 classes, of the tower", seconds / bare, "x", bound))
    return record_results(*results)


if __name__ == "__main__":
    sys.exit(main())
