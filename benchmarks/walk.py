"""What a random walk costs an image, sparse (ours) beside the dense squaring of the published code, in one run.

    python benchmarks/walk.py [--rounds 3] [--threads 1] [--full]

PSA's walk on 47 x 63 cells and IRN's on 94 x 125, of 3 rows (two classes and a background, three classes) and 256
steps, on seeded features and boundaries: their values don't change the cost. Ours counts from the network's output to
the walked rows, affinities included. The dense form raises the N x N matrix to the power 2^8 by eight squarings in
float32. IRN's takes minutes: without --full one squaring is timed and told times eight, and our rows are compared with
the dense matrix applied step by step, which is the same product. The largest difference is that of the rows divided by
their joint maximum.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stages.flow.device import use_threads
from stages.kernels.pairs import pair_distances, pair_offsets, spread_over_map
from stages.kernels.paths import affinities_between_all
from stages.refine import irn, psa

STEPS, SQUARINGS, RADIUS, ROWS = 256, 8, 5, 3
BOUND, TOLERANCE = 0.5, 1e-4  # CPU seconds of ours for an image; largest difference


class Psa:
    """PSA's walk: features of 448 channels at stride 8 of a photograph of 375 x 500."""

    name, size, beta = "PSA", (47, 63), 8.0

    def __init__(self, generator: torch.Generator) -> None:
        """Draw features, smooth as those of a network are, and rows."""
        smooth = torch.rand(1, 448, 6, 8, generator=generator)
        self.features = torch.nn.functional.interpolate(smooth, self.size, mode="bilinear")[0]
        self.rows = torch.rand(ROWS, *self.size, generator=generator).numpy()

    def ours(self) -> np.ndarray:
        """Return the walked rows."""
        return psa.transition(self.features, RADIUS, self.beta).walk(self.rows, STEPS)

    def affinity(self) -> np.ndarray:
        """Return the affinities (P, h, w) that the dense matrix is made of."""
        found = torch.exp(-pair_distances(self.features[None], RADIUS))[0].numpy()
        return spread_over_map(found, self.size, RADIUS)


class Irn:
    """IRN's walk: a boundary at stride 4 of a photograph of 375 x 500."""

    name, size, beta = "IRN", (94, 125), 10.0

    def __init__(self, generator: torch.Generator) -> None:
        """Draw a boundary and rows that lie off it."""
        self.boundary = torch.rand(self.size, generator=generator) ** 2
        self.rows = torch.rand(ROWS, *self.size, generator=generator).numpy() * (1 - self.boundary.numpy())

    def ours(self) -> np.ndarray:
        """Return the walked rows."""
        return irn.transition(self.boundary, RADIUS, self.beta).walk(self.rows, STEPS)

    def affinity(self) -> np.ndarray:
        """Return the affinities (P, h, w) that the dense matrix is made of."""
        return affinities_between_all(self.boundary, RADIUS).numpy()


def dense_transition(affinity: np.ndarray, beta: float) -> Tensor:
    """Return the float32 N x N transition matrix of affinities (P, h, w), each column divided by its sum."""
    height, width = affinity.shape[1:]
    cells = np.arange(height * width).reshape(height, width)
    matrix = np.eye(height * width, dtype=np.float32)
    for values, (down, across) in zip(affinity, pair_offsets(RADIUS).tolist(), strict=True):
        left, right = max(-across, 0), width - max(across, 0)
        one, other = cells[:height - down, left:right], cells[down:, left + across:right + across]
        matrix[one, other] = matrix[other, one] = values[:height - down, left:right]
    powered = torch.from_numpy(matrix) ** beta
    return powered / powered.sum(0)


def timed(call: Callable[[], object]) -> tuple[float, float, object]:
    """Return (CPU seconds, wall seconds, result) of a call."""
    processor, wall = time.process_time(), time.perf_counter()
    result = call()
    return time.process_time() - processor, time.perf_counter() - wall, result


def squared(matrix: Tensor, times: int) -> Tensor:
    """Return the matrix to the power 2^times."""
    for _ in range(times):
        matrix = matrix @ matrix
    return matrix


def stepped(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows (L, N) times the matrix to the power of the steps, one product after the other in float64."""
    rows, matrix = rows.double(), matrix.double()
    for _ in range(STEPS):
        rows = rows @ matrix
    return rows


def measure(walk: Psa | Irn, rounds: int, full: bool) -> str:
    """Print the rows of one walk, and return what is wrong, if anything."""
    found = [timed(walk.ours) for _ in range(rounds + 1)][1:]
    cpu, wall = (statistics.median(one[place] for one in found) for place in (0, 1))
    print(f"{walk.name:5} {'sparse (ours)':22} {cpu:8.3f} {wall:8.3f}", flush=True)
    matrix = dense_transition(walk.affinity(), walk.beta)
    start = torch.from_numpy(walk.rows).flatten(1)
    whole = full or walk.name == "PSA"
    dense_cpu, dense_wall, power = timed(lambda: squared(matrix, SQUARINGS if whole else 1))
    if whole:
        print(f"{walk.name:5} {'dense, 8 squarings':22} {dense_cpu:8.3f} {dense_wall:8.3f}")
        expected = start @ power
    else:
        print(f"{walk.name:5} {'dense, one squaring':22} {dense_cpu:8.3f} {dense_wall:8.3f}\n"
              f"{walk.name:5} {'  times eight':22} {8 * dense_cpu:8.3f} {8 * dense_wall:8.3f}")
        del power
        expected = stepped(start, matrix)
    ours = found[0][2].reshape(ROWS, -1)
    difference = np.abs(ours / ours.max() - (expected / expected.max()).numpy()).max()
    print(f"{walk.name:5} largest difference {difference:.1e}, {dense_cpu * (1 if whole else 8) / cpu:.0f} times less "
          "processor time", flush=True)
    broken = [f"{walk.name} took {cpu:.2f} s of processor time, over {BOUND}"] * (cpu > BOUND)
    return "; ".join(broken + [f"{walk.name} differs by {difference:.1e}"] * bool(difference > TOLERANCE))


def main() -> None:
    """Measure both and print a table; end with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="square IRN's matrix eight times too")
    given = parser.parse_args()
    use_threads(given.threads)
    print(f"{STEPS} steps of {ROWS} rows, threads: {given.threads}")
    print(f"{'walk':5} {'form':22} {'CPU s':>8} {'wall s':>8}")
    generator = torch.Generator().manual_seed(0)
    broken = [measure(kind(generator), given.rounds, given.full) for kind in (Psa, Irn)]
    sys.exit("; ".join(filter(None, broken)) or None)


if __name__ == "__main__":
    main()
