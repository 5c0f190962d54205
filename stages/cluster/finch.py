"""Sub-categories by first neighbours: FINCH, as in Sub-category Teaching."""

from __future__ import annotations

import numpy as np

from stages.cluster.config import FinchConfig
from stages.kernels.first_neighbours import finch, merge_to


def clusters(points: np.ndarray, config: FinchConfig) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return (chosen partition int32 (N,), all partitions, finest first) of a class's features (N, D).

    Where a class has fewer partitions than asked for, or fewer images than clusters, the nearest that there is.
    """
    partitions = finch(points, config.metric, purity_filter=config.purity_filter)
    if not config.clusters:
        place = len(partitions) - 1 if config.partition == "last" else int(config.partition)
        return partitions[min(place, len(partitions) - 1)], partitions
    wanted = min(config.clusters, len(points))
    finer = [one for one in partitions if one.max() + 1 >= wanted]
    start = finer[-1] if finer else np.arange(len(points), dtype=np.int32)
    return merge_to(points, start, wanted, config.metric), partitions
