"""Measure the random walk of an image: our sparse form against the dense squaring of the published code, in one run.

    python benchmarks/walk.py [--rounds 3] [--threads 1] [--full]

PSA's walk on 47 x 63 cells and IRN's on 94 x 125, with 3 rows (two classes and a background, three classes) and 256
steps, on seeded random features and boundaries, whose values don't change the cost. Our form is timed from the output
of the network to the walked rows, including the affinities. The dense form raises the N x N matrix to the power 2^8 by
eight squarings in float32. For IRN this takes minutes: without --full one squaring is timed and multiplied by eight,
and our rows are compared with the dense matrix applied step by step, which is the same product. The largest difference
is that of the rows divided by their joint maximum.
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

from results import Result, record_results

from stages.flow.device import use_threads
from stages.kernels.boundary_paths import compute_all_path_affinities
from stages.kernels.cell_pairs import compute_pair_distances, compute_pair_offsets, scatter_pairs_to_map
from stages.refine import irn, psa

STEPS, SQUARINGS, RADIUS, ROWS = 256, 8, 5, 3
MAX_SECONDS, TOLERANCE = 0.5, 1e-4  # CPU seconds of our form for an image; largest difference


class Psa:
    """PSA's walk: features of 448 channels at stride 8 of a photograph of 375 x 500."""

    name, size, beta = "PSA", (47, 63), 8.0

    def __init__(self, generator: torch.Generator) -> None:
        """Draw features that are as smooth as those of a network, and rows."""
        smooth = torch.rand(1, 448, 6, 8, generator=generator)
        self.features = torch.nn.functional.interpolate(smooth, self.size, mode="bilinear")[0]
        self.rows = torch.rand(ROWS, *self.size, generator=generator).numpy()

    def walk_rows(self) -> np.ndarray:
        """Return the walked rows."""
        return psa.build_transition(self.features, RADIUS, self.beta).walk(self.rows, STEPS)

    def compute_affinity(self) -> np.ndarray:
        """Return the affinities (P, h, w) from which the dense matrix is built."""
        pairs = torch.exp(-compute_pair_distances(self.features[None], RADIUS))[0].numpy()
        return scatter_pairs_to_map(pairs, self.size, RADIUS)


class Irn:
    """IRN's walk: a boundary at stride 4 of a photograph of 375 x 500."""

    name, size, beta = "IRN", (94, 125), 10.0

    def __init__(self, generator: torch.Generator) -> None:
        """Draw a boundary, and rows that are low on it."""
        self.boundary = torch.rand(self.size, generator=generator) ** 2
        self.rows = torch.rand(ROWS, *self.size, generator=generator).numpy() * (1 - self.boundary.numpy())

    def walk_rows(self) -> np.ndarray:
        """Return the walked rows."""
        return irn.build_transition(self.boundary, RADIUS, self.beta).walk(self.rows, STEPS)

    def compute_affinity(self) -> np.ndarray:
        """Return the affinities (P, h, w) from which the dense matrix is built."""
        return compute_all_path_affinities(self.boundary, RADIUS).numpy()


def build_dense_transition(affinity: np.ndarray, beta: float) -> Tensor:
    """Return the float32 N x N transition matrix of affinities (P, h, w), each column divided by its sum."""
    height, width = affinity.shape[1:]
    cells = np.arange(height * width).reshape(height, width)
    matrix = np.eye(height * width, dtype=np.float32)
    for values, (down, across) in zip(affinity, compute_pair_offsets(RADIUS).tolist(), strict=True):
        left, right = max(-across, 0), width - max(across, 0)
        cell, neighbour = cells[:height - down, left:right], cells[down:, left + across:right + across]
        matrix[cell, neighbour] = matrix[neighbour, cell] = values[:height - down, left:right]
    powered = torch.from_numpy(matrix) ** beta
    return powered / powered.sum(0)


def time_call(call: Callable[[], object]) -> tuple[float, float, object]:
    """Return (CPU seconds, wall seconds, result) of a call."""
    processor, wall = time.process_time(), time.perf_counter()
    result = call()
    return time.process_time() - processor, time.perf_counter() - wall, result


def square_repeatedly(matrix: Tensor, num_squarings: int) -> Tensor:
    """Return the matrix to the power 2^times."""
    for _ in range(num_squarings):
        matrix = matrix @ matrix
    return matrix


def apply_steps(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows (L, N) multiplied by the matrix STEPS times, in float64."""
    rows, matrix = rows.double(), matrix.double()
    for _ in range(STEPS):
        rows = rows @ matrix
    return rows


def measure_walk(walk: Psa | Irn, rounds: int, full: bool) -> str:
    """Print the lines of one walk, and return the exceeded bounds, or an empty string."""
    timings = [time_call(walk.walk_rows) for _ in range(rounds + 1)][1:]
    cpu, wall = (statistics.median(timing[position] for timing in timings) for position in (0, 1))
    print(f"{walk.name:5} {'sparse (ours)':22} {cpu:8.3f} {wall:8.3f}", flush=True)
    matrix = build_dense_transition(walk.compute_affinity(), walk.beta)
    start = torch.from_numpy(walk.rows).flatten(1)
    is_full = full or walk.name == "PSA"
    dense_cpu, dense_wall, power = time_call(lambda: square_repeatedly(matrix, SQUARINGS if is_full else 1))
    if is_full:
        print(f"{walk.name:5} {'dense, 8 squarings':22} {dense_cpu:8.3f} {dense_wall:8.3f}")
        expected = start @ power
    else:
        print(f"{walk.name:5} {'dense, one squaring':22} {dense_cpu:8.3f} {dense_wall:8.3f}\n"
              f"{walk.name:5} {'  times eight':22} {8 * dense_cpu:8.3f} {8 * dense_wall:8.3f}")
        del power
        expected = apply_steps(start, matrix)
    walked_rows = timings[0][2].reshape(ROWS, -1)
    difference = np.abs(walked_rows / walked_rows.max() - (expected / expected.max()).numpy()).max()
    print(f"{walk.name:5} largest difference {difference:.1e}, {dense_cpu * (1 if is_full else 8) / cpu:.0f} times "
          "less CPU time", flush=True)
    record_results(Result(f"{walk.name}'s walk", cpu, "CPU s", MAX_SECONDS),
                   Result(f"{walk.name}'s walk, difference", float(difference), "of 1", TOLERANCE))
    problems = [f"{walk.name} took {cpu:.2f} s of CPU time, over {MAX_SECONDS}"] * (cpu > MAX_SECONDS)
    return "; ".join(problems + [f"{walk.name} differs by {difference:.1e}"] * bool(difference > TOLERANCE))


def main() -> None:
    """Measure both walks and print a table; exit with 1 if a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="square IRN's matrix eight times too")
    arguments = parser.parse_args()
    use_threads(arguments.threads)
    print(f"{STEPS} steps of {ROWS} rows, threads: {arguments.threads}")
    print(f"{'walk':5} {'form':22} {'CPU s':>8} {'wall s':>8}")
    generator = torch.Generator().manual_seed(0)
    problems = [measure_walk(walk(generator), arguments.rounds, arguments.full) for walk in (Psa, Irn)]
    sys.exit("; ".join(filter(None, problems)) or None)


if __name__ == "__main__":
    main()
