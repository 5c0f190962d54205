"""Compare pixel-adaptive refinement with its published form, which unfolds maps into 8 channels per dilation.

    python benchmarks/pamr.py [--size 448,448] [--classes 21] [--rounds 3]

Both run ten iterations at six dilations, each in its own process, on one thread. CPU seconds are medians of the
rounds, without the compilation; memory is the peak resident size minus that before the call.
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

from results import Result, record_results

from stages.flow.device import use_threads
from stages.kernels.pamr import pamr

DILATIONS, ITERATIONS = (1, 2, 4, 8, 12, 24), 10
MIN_SPEEDUP, MAX_MEGABYTES = 25.0, 300.0


def unfold_neighbours(maps: Tensor, taps: Tensor) -> Tensor:
    """Return the responses (K, T n, H, W) of maps (K, H, W) to T taps (T, 1, 3, 3) at each of n dilations."""
    responses = []
    for dilation in DILATIONS:
        padded = F.pad(maps[:, None], (dilation,) * 4, mode="replicate")
        responses.append(F.conv2d(padded, taps, dilation=dilation))
    return torch.cat(responses, dim=1)


def refine_by_unfolding(image: Tensor, maps: Tensor) -> Tensor:
    """Compute the result of `pamr` by convolutions whose kernels pick one neighbour each."""
    all_taps = torch.eye(9).reshape(9, 1, 3, 3)
    neighbour_taps = all_taps[[tap for tap in range(9) if tap != 4]]
    deviation = unfold_neighbours(image, all_taps).std(dim=1, keepdim=True)
    distance = (unfold_neighbours(image, neighbour_taps) - image[:, None]).abs() / (1e-8 + 0.1 * deviation)
    weights = (-distance).mean(dim=0).softmax(dim=0)
    for _ in range(ITERATIONS):
        maps = (unfold_neighbours(maps, neighbour_taps) * weights).sum(dim=1)
    return maps


def refine_with_ours(image: Tensor, maps: Tensor) -> Tensor:
    """Compute the result as `stages` does."""
    return pamr(image, maps, DILATIONS, ITERATIONS)


def measure_form(form: str, size: tuple[int, int], num_classes: int, rounds: int) -> tuple[float, float, Tensor]:
    """Return (CPU seconds, extra megabytes, result) of `form` in this process."""
    use_threads(1)
    generator = torch.Generator().manual_seed(0)
    image, maps = torch.rand(3, *size, generator=generator), torch.rand(num_classes, *size, generator=generator)
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        refine_with_ours(image[:, :8, :8], maps[:, :8, :8])  # compiles, or loads what was compiled
        for _ in range(rounds):
            start = time.process_time()
            result = {"unfolding": refine_by_unfolding, "ours": refine_with_ours}[form](image, maps)
            seconds.append(time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.median(seconds), (after - before) / 1024, result.clone()


def main() -> int:
    """Measure both forms and print a table; return 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="448,448")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split(","))
    torch.multiprocessing.set_sharing_strategy("file_system")
    results = {}
    for form in ("unfolding", "ours"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[form] = pool.apply(measure_form, (form, (height, width), arguments.classes, arguments.rounds))
    difference = float((results["unfolding"][2] - results["ours"][2]).abs().max())
    ratio, extra = results["unfolding"][0] / results["ours"][0], results["ours"][1]
    print(f"{'form':10} {'CPU seconds':>11} {'extra MB':>9}")
    for form, (seconds, megabytes, _) in results.items():
        print(f"{form:10} {seconds:11.2f} {megabytes:9.0f}")
    print(f"{ratio:.1f} times less (bound {MIN_SPEEDUP:g}), {extra:.0f} MB (bound {MAX_MEGABYTES:g}), largest "
          f"difference {difference:.1e}")
    return record_results(
        Result("PAMR, CPU seconds", results["ours"][0], "CPU s"),
        Result("PAMR, times faster than unfolding", ratio, "x", MIN_SPEEDUP, higher_is_better=True),
        Result("PAMR, memory", extra, "MB", MAX_MEGABYTES))


if __name__ == "__main__":
    sys.exit(main())
