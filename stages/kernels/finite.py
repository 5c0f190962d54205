"""Replacement of infinities by NaN, so that later operations can't hide an overflow."""

from __future__ import annotations

import torch
from torch import Tensor


def infinite_to_nan(values: Tensor) -> Tensor:
    """Return `values` with each infinity replaced by NaN.

    A ReLU turns minus infinity into 0, a sigmoid turns infinities into 0 or 1, and a softmax turns minus infinity into
    0; all of them keep NaN. So an overflow in half precision reaches the check of the finished maps.
    """
    return torch.where(values.isinf(), torch.nan, values)
