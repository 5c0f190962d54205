"""What pixel-adaptive refinement costs as shifted views and as an unfolding into 8 channels a dilation.

    python benchmarks/pamr.py [--size 448,448] [--classes 21] [--rounds 3]

Both forms do ten iterations at six dilations, each in a process of its own, on one thread. CPU seconds are medians of
the rounds; memory is the largest resident size beyond that before the call.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stages.flow.device import use_threads
from stages.kernels.pamr import pamr

DILATIONS, ITERATIONS = (1, 2, 4, 8, 12, 24), 10
AT_LEAST, MEGABYTES = 10.0, 300.0


def unfolded(maps: Tensor, taps: Tensor) -> Tensor:
    """Return (K, T n, H, W): maps (K, H, W) seen through T taps (T, 1, 3, 3) at each of n dilations."""
    seen = []
    for dilation in DILATIONS:
        padded = F.pad(maps[:, None], (dilation,) * 4, mode="replicate")
        seen.append(F.conv2d(padded, taps, dilation=dilation))
    return torch.cat(seen, dim=1)


def by_unfolding(image: Tensor, maps: Tensor) -> Tensor:
    """Return what `pamr` returns, by convolutions whose kernels pick one neighbour each."""
    every = torch.eye(9).reshape(9, 1, 3, 3)
    around = every[[place for place in range(9) if place != 4]]
    deviation = unfolded(image, every).std(dim=1, keepdim=True)
    apart = (unfolded(image, around) - image[:, None]).abs() / (1e-8 + 0.1 * deviation)
    weights = (-apart).mean(dim=0).softmax(dim=0)
    for _ in range(ITERATIONS):
        maps = (unfolded(maps, around) * weights).sum(dim=1)
    return maps


def by_views(image: Tensor, maps: Tensor) -> Tensor:
    """Return the same by shifted views."""
    return pamr(image, maps, DILATIONS, ITERATIONS)


def measured(form: str, size: tuple[int, int], classes: int, rounds: int) -> tuple[float, float, Tensor]:
    """Return (CPU seconds, extra megabytes, result) of `form` in this process."""
    use_threads(1)
    generator = torch.Generator().manual_seed(0)
    image, maps = torch.rand(3, *size, generator=generator), torch.rand(classes, *size, generator=generator)
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        for _ in range(rounds):
            start = time.process_time()
            result = {"unfolding": by_unfolding, "views": by_views}[form](image, maps)
            seconds.append(time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.median(seconds), (after - before) / 1024, result.clone()


def main() -> int:
    """Measure both forms and print a table; 1 where the goals are missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="448,448")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    height, width = map(int, given.size.split(","))
    torch.multiprocessing.set_sharing_strategy("file_system")
    found = {}
    for form in ("unfolding", "views"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[form] = pool.apply(measured, (form, (height, width), given.classes, given.rounds))
    difference = float((found["unfolding"][2] - found["views"][2]).abs().max())
    ratio, extra = found["unfolding"][0] / found["views"][0], found["views"][1]
    print(f"{'form':10} {'CPU seconds':>11} {'extra MB':>9}")
    for form, (seconds, megabytes, _) in found.items():
        print(f"{form:10} {seconds:11.2f} {megabytes:9.0f}")
    print(f"{ratio:.1f} times less (goal {AT_LEAST:g}), {extra:.0f} MB (goal {MEGABYTES:g}), largest difference "
          f"{difference:.1e}")
    return int(ratio < AT_LEAST or extra > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
