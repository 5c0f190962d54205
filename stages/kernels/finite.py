"""Infinities as NaN, so that what comes after can't hide them."""

from __future__ import annotations

import torch
from torch import Tensor


def infinite_to_nan(values: Tensor) -> Tensor:
    """Return `values` with NaN in the place of each infinity.

    A ReLU turns minus infinity into 0, a sigmoid turns both into 0 or 1, a softmax minus infinity into 0; a NaN stays
    one in all of them. So an overflow in half precision reaches the check of the finished maps.
    """
    return torch.where(values.isinf(), torch.nan, values)
