"""Measure how much CLIP-ES costs compared with the bare image tower, in CPU seconds within one run.

    python benchmarks/clip_es.py [--size 375,500] [--rounds 5] [--device cpu|cuda] [--batch 1]

A ViT-B/16 with seeded random weights; the bare tower is open_clip's own forward pass on the same input. The CAMs of K
classes include everything after decoding: features, gradients, boxes, affinity. Ratios are to the tower in float32; the
tower in bfloat16 shows what the processor gains from that precision (0.3 on some, 0.5 on others). On a GPU wall time is
measured, on batches, ratios are to the tower of the same precision, and the images per second matter.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results import Result, record_results

from stages.cams.clip_es import TextFeatures, compute_cams
from stages.cams.config import ClipEsConfig
from stages.data.inference_views import round_size_to_patches
from stages.flow.device import use_threads
from stages.nets.clip import find_clip, load_clip

CLASSES = (1, 2, 4)
# Largest allowed ratio to the bare tower in float32, by precision and number of classes K.
MAX_RATIOS = {("fp32", 1): 1.20, ("fp32", 2): 1.25, ("fp32", 4): 1.35, ("bf16", 2): 0.65}


def build_bare_tower(size: tuple[int, int], device: torch.device) -> torch.nn.Module:
    """Return open_clip's image tower with position embeddings resized for images of `size`."""
    import open_clip

    torch.manual_seed(0)
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval().requires_grad_(False)
    positions, grid = visual.positional_embedding.data, (size[0] // 16, size[1] // 16)
    patches = F.interpolate(positions[1:].T.reshape(1, -1, 14, 14), grid, mode="bilinear").flatten(2)[0].T
    visual.positional_embedding = torch.nn.Parameter(torch.cat([positions[:1], patches]), requires_grad=False)
    return visual.to(device)


def measure_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the CPU seconds of a call, or its wall seconds on a GPU."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def main() -> int:
    """Measure all forms and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="375,500")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    use_threads(1)
    device = torch.device(arguments.device)
    height, width = map(int, arguments.size.split(","))
    size = round_size_to_patches((height, width), 1.0, 16)
    images = torch.randn(arguments.batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    visual, source = build_bare_tower(size, device), find_clip("ViT-B-16-quickgelu", "random")
    generator = torch.Generator().manual_seed(1)
    text = TextFeatures(*(F.normalize(torch.randn(*shape, generator=generator), dim=-1).to(device)
                          for shape in ((1, 20, 512), (25, 512))), 100.0)
    half = torch.bfloat16 if device.type == "cpu" else torch.float16
    towers = {"fp32": load_clip(source, device=device).vision,
              "bf16": load_clip(source, device=device, dtype=half).vision}
    calls: dict[tuple[str, int], Callable[[], object]] = {("fp32", 0): lambda: visual(images)}
    half_visual, half_images = copy.deepcopy(visual).to(half), images.to(half)
    calls["bf16", 0] = lambda: half_visual(half_images)
    for name, tower in towers.items():
        for num_classes in CLASSES:
            ids = np.arange(1, num_classes + 1)
            calls[name, num_classes] = lambda tower=tower, ids=ids: compute_cams(
                tower, [images], text, ClipEsConfig(), 0.4, lambda _position, scores: ids)
    timings: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    with torch.inference_mode():
        for _ in range(arguments.rounds + 1):  # interleaved, so that other load on the machine affects all alike
            for key, call in calls.items():
                timings[key].append(measure_seconds(call, device))
    return print_table(timings, arguments.batch, device)


def print_table(timings: dict[tuple[str, int], list[float]], batch: int, device: torch.device) -> int:
    """Print the medians without the first round, and their ratios to the bare tower; return 1 if one is too large."""
    results = []
    medians = {key: statistics.median(values[1:]) for key, values in timings.items()}
    print(f"{'precision':10} {'classes':>7} {'seconds':>9} {'ratio':>7} {'bound':>6} {'images/s':>9}")
    for (name, num_classes), seconds in medians.items():
        bare = medians.get((name, 0), medians["fp32", 0]) if device.type == "cuda" else medians["fp32", 0]
        bound = MAX_RATIOS.get((name, num_classes)) if device.type == "cpu" else None
        print(f"{name:10} {num_classes or 'bare':>7} {seconds:9.4f} {seconds / bare:7.3f} {bound or '':>6} "
              f"{batch / seconds:9.2f}")
        if num_classes:
            results.append(Result(f"clip-es {name}, {num_classes} classes, of the tower", seconds / bare, "x", bound))
    return record_results(*results)


if __name__ == "__main__":
    sys.exit(main())
