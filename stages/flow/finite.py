"""Checks for values that are not finite, as every stage that computes with a network does."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.errors import BadData


def check_finite(values: Any, quantity: str, item_id: str) -> None:
    """Raise BadData naming the image if `values` (any shape) contain a NaN or an infinity; integers never do.

    `quantity` names the values in the message.
    """
    array = np.asarray(values)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    num_invalid = int(np.count_nonzero(~np.isfinite(array)))
    raise BadData(f"{num_invalid} of {array.size} values of its {quantity} are not finite numbers",
                  "Check the weights and the input statistics of the network, or use --precision fp32", where=item_id)
