"""Measure how much the training-free methods cost compared with the bare image tower, in CPU seconds within one run.

    python benchmarks/dense_text.py [--size 336,448] [--rounds 4]

A ViT-B/16 with seeded random weights and 60 words, on the windows of one image; the bare tower is open_clip's own
forward pass on the same windows. `all` includes everything from the resized image to the scores of 375 x 500 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results import Result, record_results

from stages.flow.device import use_threads
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.clip import find_clip, load_clip
from stages.segment.config import ClearclipConfig, MaskclipConfig, NaclipConfig, SclipConfig, apply_protocol
from stages.segment.dense_text import WordVectors, score_image
from stages.segment.workers import METHODS, embed_with_attention

CONFIGS = {"maskclip": MaskclipConfig, "sclip": SclipConfig, "clearclip": ClearclipConfig, "naclip": NaclipConfig}
# Refinement with the dilations of the SCLIP protocol, and with TCL's.
OPTIONS: dict[str, dict[str, Any]] = {
    "": {}, " --pamr": {"pamr": True},
    " --pamr, 6 dilations": {"pamr": True, "dilations": (1, 2, 4, 8, 12, 24)}}
MAX_RATIO, MAX_PAMR_RATIO, GRID = 1.05, 0.2, (375, 500)


def build_calls(size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return the calls to measure by name; `bare` comes first."""
    import open_clip

    clip = load_clip(find_clip("ViT-B-16-quickgelu", "random"), device=torch.device("cpu"), positions="bicubic")
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    view, image = torch.randn(3, *size, generator=generator), torch.rand(3, *GRID, generator=generator)
    windows = SlidingWindows(size, side=224, stride=112, cell=16)
    crops = windows.crop(view)
    vectors = F.normalize(torch.randn(60, 512, generator=generator), dim=-1)
    words = WordVectors(vectors, (26, *(1 for _ in range(34))), True)
    calls: dict[str, Callable[[], object]] = {"bare": lambda: visual(crops)}
    for name, config_class in CONFIGS.items():
        for option, values in OPTIONS.items() if name == "naclip" else (("", {}),):
            config = apply_protocol(config_class(**values))
            embed = partial(embed_with_attention, clip.vision, METHODS[name](config), config.whole_block)
            calls[name] = partial(embed, crops)
            label = f"{name}{option}, all"
            calls[label] = partial(score_image, embed, view, image, windows, words, GRID, config)
    return calls


def main() -> int:
    """Measure and print a table; return 1 if a window costs more than the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="336,448")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    use_threads(1)
    height, width = map(int, arguments.size.split(","))
    calls = build_calls((height, width))
    timings: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(arguments.rounds + 1):  # interleaved, so that other load on the machine affects all alike
            for name, call in calls.items():
                start = time.process_time()
                call()
                timings[name].append(time.process_time() - start)
    medians = {name: statistics.median(values[1:]) for name, values in timings.items()}
    print(f"{'':28} {'seconds':>8} {'ratio':>6}   bound for a window {MAX_RATIO}")
    for name, seconds in medians.items():
        print(f"{name:28} {seconds:8.3f} {seconds / medians['bare']:6.3f}")
    return record_results(
        *(Result(f"{name}, a window of the bare tower", medians[name] / medians["bare"], "x", MAX_RATIO)
          for name in CONFIGS),
        *(Result(f"{name} of the bare tower", medians[name] / medians["bare"], "x")
          for name in medians if name.endswith("all")),
        *(Result(f"naclip{option}: PAMR of the bare tower", (medians[f"naclip{option}, all"] - medians["naclip, all"])
                 / medians["bare"], "x", MAX_PAMR_RATIO) for option in OPTIONS if option))


if __name__ == "__main__":
    sys.exit(main())
