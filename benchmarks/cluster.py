"""What FINCH costs on many points: time and memory, beside the package of its authors in the same run.

    python benchmarks/cluster.py [--points 50000] [--channels 512] [--rounds 2] [--threads 1] [--metric cosine]
                                 [--python FILE]

Points of a seeded Gaussian mixture. Each program clusters them in a process of its own, `--rounds` times, so that peak
memory is its own and what it compiles on its first call shows. finch-clust is compared where it is installed (else
`--python` names an interpreter that has it). Above 20,000 points it takes approximate neighbours, for which it needs
pynndescent and numba's compiler: its second call is then far quicker than its first, and quicker than ours, which is
exact at every size. A command clusters in a fresh process, so bounds are on the first call: no more processor time than
finch-clust, and 1.5 GB resident in all.
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

ROOT = Path(__file__).resolve().parent.parent
MEMORY_BOUND = 1.5e9
CENTRES = 500
PROGRAMS = ("ours", "finch-clust")
INSTALL = "pip install finch-clust pynndescent, or name an interpreter that has them: --python FILE"


def mixture(count: int, channels: int) -> np.ndarray:
    """Return float32 (N, D): points about seeded centres that overlap, as features of one class do."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CENTRES, channels), dtype=np.float32)
    points = generator.standard_normal((count, channels), dtype=np.float32)
    points += centres[generator.integers(CENTRES, size=count)]
    return points


def clustering(program: str, metric: str) -> Callable[[np.ndarray], list[int]]:
    """Return a call of a program's FINCH that gives the number of clusters of each partition."""
    if program == "ours":
        sys.path.insert(0, str(ROOT))
        from stages.kernels.first_neighbours import finch

        return lambda points: [int(one.max()) + 1 for one in finch(points, metric)]
    from finch import FINCH

    return lambda points: [int(count) for count in FINCH(points, distance=metric, verbose=False)[1]]


def measure(program: str, given: argparse.Namespace) -> None:
    """Print a line of JSON for every round of `program`."""
    call, points = clustering(program, given.metric), mixture(given.points, given.channels)
    for _ in range(given.rounds):
        began, processor = time.perf_counter(), time.process_time()
        clusters = call(points)
        print(json.dumps({"wall": time.perf_counter() - began, "processor": time.process_time() - processor,
                          "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "clusters": clusters}),
              flush=True)


def rounds(program: str, given: argparse.Namespace) -> list[dict]:
    """Return what `program` measured in a process of its own; empty, with a word, where it can't run."""
    python = given.python if program == "finch-clust" and given.python else sys.executable
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"),
                            str(given.threads))
    done = subprocess.run([python, __file__, *sys.argv[1:], "--program", program], env={**os.environ, **threads},
                          capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        print(f"{program} did not run ({last})" + (f"; {INSTALL}" if program == "finch-clust" else ""))
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def broken_bounds(found: dict[str, list[dict]]) -> list[str]:
    """Return a line for each bound that the first calls broke."""
    ours, theirs = (found[program][0] if found[program] else None for program in PROGRAMS)
    if ours is None:
        return ["ours did not run"]
    told = [f"ours took {ours['peak'] / 1e6:.0f} MB, over {MEMORY_BOUND / 1e6:.0f}"] * (ours["peak"] > MEMORY_BOUND)
    if theirs is not None and ours["processor"] > theirs["processor"]:
        told.append(f"ours took {ours['processor']:.1f} s of processor time, finch-clust {theirs['processor']:.1f}")
    return told


def main() -> None:
    """Measure both and print a table; end with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--metric", default="cosine", choices=("cosine", "euclidean"))
    parser.add_argument("--python", default="")
    parser.add_argument("--program", default="", choices=("", *PROGRAMS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        measure(given.program, given)
        return
    print(f"{given.points} points of {given.channels} channels, {given.metric}, threads: {given.threads}")
    print(f"{'program':12} {'call':>4} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}  clusters of each partition")
    found = {}
    for program in PROGRAMS:
        found[program] = rounds(program, given)
        for number, one in enumerate(found[program], 1):
            print(f"{program:12} {number:>4} {one['wall']:8.1f} {one['processor']:8.1f} {one['peak'] / 1e6:8.0f}  "
                  f"{', '.join(map(str, one['clusters']))}", flush=True)
    sys.exit("; ".join(broken_bounds(found)) or None)


if __name__ == "__main__":
    main()
