"""What the training-free methods cost beyond the bare image tower, in CPU seconds side by side in one run.

    python benchmarks/dense_text.py [--size 336,448] [--rounds 4]

A ViT-B/16 with seeded random weights and 60 words, on the windows of one image; the bare tower is open_clip's own
forward pass on the same windows. `all` is everything between the resized image and the scores of 375 x 500 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stages.flow.device import use_threads
from stages.kernels.windows import Windows
from stages.nets.clip import find_clip, load_clip
from stages.segment.config import ClearclipConfig, MaskclipConfig, NaclipConfig, SclipConfig, resolved
from stages.segment.dense_text import TextSide, image_scores
from stages.segment.workers import METHODS, by_itself

CONFIGS = {"maskclip": MaskclipConfig, "sclip": SclipConfig, "clearclip": ClearclipConfig, "naclip": NaclipConfig}
GOAL, GRID = 1.05, (375, 500)


def calls_of(size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return what is measured by name; `bare` first."""
    import open_clip

    clip = load_clip(find_clip("ViT-B-16-quickgelu", "random"), device=torch.device("cpu"), positions="bicubic")
    visual = open_clip.create_model("ViT-B-16-quickgelu").visual.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    view, picture = torch.randn(3, *size, generator=generator), torch.rand(3, *GRID, generator=generator)
    windows = Windows(size, side=224, stride=112, cell=16)
    parts = windows.cut(view)
    vectors = F.normalize(torch.randn(60, 512, generator=generator), dim=-1)
    words = TextSide(vectors, (26, *(1 for _ in range(34))), True)
    calls: dict[str, Callable[[], object]] = {"bare": lambda: visual(parts)}
    for name, kind in CONFIGS.items():
        for pamr in (False, True) if name == "naclip" else (False,):
            config = resolved(kind(pamr=pamr))
            embed = partial(by_itself, clip.vision, METHODS[name](config), config.whole_block)
            calls[name] = partial(embed, parts)
            told = f"{name}{' --pamr' if pamr else ''}, all"
            calls[told] = partial(image_scores, embed, view, picture, windows, words, GRID, config)
    return calls


def main() -> int:
    """Measure and print a table; 1 where a window costs more than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="336,448")
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    use_threads(1)
    height, width = map(int, given.size.split(","))
    calls = calls_of((height, width))
    found: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(given.rounds + 1):  # interleaved, so that what else the machine does meets all alike
            for name, call in calls.items():
                start = time.process_time()
                call()
                found[name].append(time.process_time() - start)
    medians = {name: statistics.median(values[1:]) for name, values in found.items()}
    print(f"{'':20} {'seconds':>8} {'ratio':>6}   goal for a window {GOAL}")
    for name, seconds in medians.items():
        print(f"{name:20} {seconds:8.3f} {seconds / medians['bare']:6.3f}")
    return int(any(medians[name] > GOAL * medians["bare"] for name in CONFIGS))


if __name__ == "__main__":
    sys.exit(main())
