"""Measure time and memory of FINCH on many points, compared with the authors' package in the same run.

    python benchmarks/cluster.py [--points 100000] [--channels 512] [--rounds 2] [--threads 1] [--metric cosine]
                                 [--python FILE]

The points come from a seeded Gaussian mixture. Each program clusters them `--rounds` times in its own process, so that
its peak memory and the compilation in its first call are visible. finch-clust is compared if it is installed, or if
`--python` names an interpreter that has it. Above 20,000 points it uses approximate neighbours, for which it needs
pynndescent and numba's compiler: its second call is then far faster than its first, and faster than ours, which is
exact at every size. `wsss cluster` runs in a fresh process, so the bounds hold for the first call: no more CPU time
than finch-clust, and 2 GB resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from results import Result, record_results

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 2e9
CENTRES = 500
PROGRAMS = ("ours", "finch-clust")
INSTALL = "pip install finch-clust pynndescent, or name an interpreter that has them: --python FILE"


def draw_mixture(num_points: int, channels: int) -> np.ndarray:
    """Return float32 (N, D): points around seeded centres that overlap, like the features of one class."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CENTRES, channels), dtype=np.float32)
    points = generator.standard_normal((num_points, channels), dtype=np.float32)
    points += centres[generator.integers(CENTRES, size=num_points)]
    return points


def load_program(program: str, metric: str) -> Callable[[np.ndarray], list[int]]:
    """Return a function that clusters points by a program's FINCH and returns the clusters in each partition."""
    if program == "ours":
        sys.path.insert(0, str(ROOT))
        from stages.kernels.finch_clustering import finch

        return lambda points: [int(partition.max()) + 1 for partition in finch(points, metric)]
    from finch import FINCH

    return lambda points: [int(num_clusters) for num_clusters in FINCH(points, distance=metric, verbose=False)[1]]


def measure_program(program: str, arguments: argparse.Namespace) -> None:
    """Print one line of JSON per round of `program`."""
    call, points = load_program(program, arguments.metric), draw_mixture(arguments.points, arguments.channels)
    for _ in range(arguments.rounds):
        start, processor = time.perf_counter(), time.process_time()
        clusters = call(points)
        print(json.dumps({"wall": time.perf_counter() - start, "processor": time.process_time() - processor,
                          "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "clusters": clusters}),
              flush=True)


def run_rounds(program: str, arguments: argparse.Namespace) -> list[dict]:
    """Run `program` in its own process and return its measurements; print why and return [] if it can't run."""
    python = arguments.python if program == "finch-clust" and arguments.python else sys.executable
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
                            str(arguments.threads))
    process = subprocess.run([python, __file__, *sys.argv[1:], "--program", program], env={**os.environ, **threads},
                             capture_output=True, text=True, check=False)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
        print(f"{program} failed ({last})" + (f"; {INSTALL}" if program == "finch-clust" else ""))
        return []
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def describe_broken_bounds(measurements: dict[str, list[dict]]) -> list[str]:
    """Return one line per bound that the first calls exceeded."""
    ours, theirs = (measurements[program][0] if measurements[program] else None for program in PROGRAMS)
    if ours is None:
        return ["ours failed"]
    problems = [f"ours took {ours['peak'] / 1e6:.0f} MB, over {MAX_BYTES / 1e6:.0f}"] * (ours["peak"] > MAX_BYTES)
    if theirs is not None and ours["processor"] > theirs["processor"]:
        problems.append(f"ours took {ours['processor']:.1f} s of processor time, finch-clust {theirs['processor']:.1f}")
    return problems


def main() -> None:
    """Measure both programs and print a table; exit with 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--metric", default="cosine", choices=("cosine", "euclidean"))
    parser.add_argument("--python", default="")
    parser.add_argument("--program", default="", choices=("", *PROGRAMS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        measure_program(arguments.program, arguments)
        return
    print(f"{arguments.points} points of {arguments.channels} channels, {arguments.metric}, "
          f"threads: {arguments.threads}")
    print(f"{'program':12} {'call':>4} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}  clusters in each partition")
    measurements = {}
    for program in PROGRAMS:
        measurements[program] = run_rounds(program, arguments)
        for number, measurement in enumerate(measurements[program], 1):
            print(f"{program:12} {number:>4} {measurement['wall']:8.1f} {measurement['processor']:8.1f} "
                  f"{measurement['peak'] / 1e6:8.0f}  {', '.join(map(str, measurement['clusters']))}", flush=True)
    for measurement in measurements["ours"][:1]:
        record_results(Result(f"FINCH, {arguments.points} points", measurement["processor"], "CPU s"),
                       Result(f"FINCH, {arguments.points} points, memory", measurement["peak"] / 1e6, "MB",
                              MAX_BYTES / 1e6))
    sys.exit("; ".join(describe_broken_bounds(measurements)) or None)


if __name__ == "__main__":
    main()
