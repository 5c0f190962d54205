"""The wide ResNet-38 with seeded weights, as in the reference values `resnet38-seg`.

Every tensor is drawn from PCG64 seeded with [seed, crc32(key)], scaled by its kind, and rounded to float16. Keys are
those of the released checkpoints.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch

# The variance of a convolution's weights times its fan-in, by the prefix of its key.
GAINS = {"fc8": 12.0, "f8_": 12.0, "f9": 4.0}
OTHER_GAIN = 1.4


def draw_seeded_state(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Draw the weights for a checkpoint's {key: shape}; the batch counters of BatchNorm are 0."""
    return {key: torch.tensor(0) if key.endswith("num_batches_tracked") else _draw_tensor(key, shape, seed)
            for key, shape in shapes.items()}


def _draw_tensor(key: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    mean, std = _get_distribution(key, shape)
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    values = generator.standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
    if key.endswith("running_var"):
        values = np.abs(values)
    return torch.from_numpy(values.astype(np.float16).astype(np.float32))


def _get_distribution(key: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return (mean, standard deviation) of the normal distribution of a tensor's values."""
    kind = key.rpartition(".")[2]
    if kind in ("running_mean", "running_var"):
        return float(kind == "running_var"), 0.1
    if kind == "bias":
        return 0.0, 0.05
    if len(shape) == 1:
        return 0.7, 0.1
    gain = next((gain for prefix, gain in GAINS.items() if key.startswith(prefix)), OTHER_GAIN)
    return 0.0, math.sqrt(gain / math.prod(shape[1:]))
