"""Values that are not finite numbers: the one check that every stage that computes with a network applies."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.errors import BadData


def check_finite(values: Any, what: str, item_id: str) -> None:
    """Raise BadData naming the image where `values` (any shape) hold a NaN or an infinity; integers never do.

    `what` says what the values are, for the message.
    """
    array = np.asarray(values)
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    count = int(np.count_nonzero(~np.isfinite(array)))
    raise BadData(f"{count} of {array.size} values of its {what} are not finite numbers",
                  "check the weights and the input statistics of the network, or use --precision fp32", where=item_id)
