"""The wide ResNet-38 with seeded weights: the recipe by which the reference values of `resnet38-seg` were made.

Every tensor is drawn from PCG64 seeded with [seed, crc32(key)], scaled by its kind, and rounded through float16. Keys
are those of the released checkpoints.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch

# Variance of a convolution's weights times its fan-in, by the first letters of its key.
GAINS = {"fc8": 12.0, "f8_": 12.0, "f9": 4.0}
OTHER_GAIN = 1.4


def seeded_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return the weights by key for {key: shape} of a checkpoint; counters of BatchNorm are 0."""
    return {key: torch.tensor(0) if key.endswith("num_batches_tracked") else _tensor(key, shape, seed)
            for key, shape in shapes.items()}


def _tensor(key: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    mean, spread = _mean_and_spread(key, shape)
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    values = generator.standard_normal(shape, dtype=np.float32) * np.float32(spread) + np.float32(mean)
    if key.endswith("running_var"):
        values = np.abs(values)
    return torch.from_numpy(values.astype(np.float16).astype(np.float32))


def _mean_and_spread(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    kind = key.rpartition(".")[2]
    if kind in ("running_mean", "running_var"):
        return float(kind == "running_var"), 0.1
    if kind == "bias":
        return 0.0, 0.05
    if len(shape) == 1:
        return 0.7, 0.1
    gain = next((gain for prefix, gain in GAINS.items() if key.startswith(prefix)), OTHER_GAIN)
    return 0.0, math.sqrt(gain / math.prod(shape[1:]))
