"""Values of weights that are NaN or infinite: the error about them, and their count without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from stages.errors import BadData

_FLOAT_TYPES = {"float64": np.dtype("<f8"), "float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def build_nonfinite_error(counts: Mapping[str, tuple[int, Sequence[int]]], where: str, remedy: str) -> BadData:
    """Return the error that names the first tensor of `counts`, its (number of such values, shape) by name."""
    name, (count, shape) = next(iter(counts.items()))
    num_others = len(counts) - 1
    others = f", and {num_others} more tensors hold such values" if num_others > 1 else (
        ", and 1 more tensor holds such values" if num_others else "")
    verb = "is" if count == 1 else "are"
    return BadData(f"{count} of the {math.prod(shape)} values of {name} {verb} not finite (NaN or infinite){others}",
                   remedy, where=where)


def may_hold_infinity(name: str) -> bool:
    """Return whether a tensor of this name is an attention mask, which may hold minus infinity."""
    return "mask" in name.rpartition(".")[2]


def count_nonfinite_bytes(name: str, dtype: str, data: bytes) -> int:
    """Return how many values of a stored tensor are NaN or infinite in float32, given its little-endian bytes.

    `dtype` is torch's name. Types other than float64, float32, float16 and bfloat16 count as finite.
    """
    if dtype == "bfloat16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype in _FLOAT_TYPES:
        with np.errstate(over="ignore"):
            values = np.frombuffer(data, _FLOAT_TYPES[dtype]).astype(np.float32, copy=False)
    else:
        return 0
    is_valid = np.isfinite(values)
    if is_valid.all():
        return 0
    if may_hold_infinity(name):
        is_valid |= np.isneginf(values)
    return int(is_valid.size - np.count_nonzero(is_valid))
