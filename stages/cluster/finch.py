"""Cluster the images of a class into sub-categories by first neighbours (FINCH), as in Sub-category Teaching."""

from __future__ import annotations

import numpy as np

from stages.cluster.config import FinchConfig
from stages.kernels.finch_clustering import finch, merge_clusters


def compute_clusters(points: np.ndarray, config: FinchConfig) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return (selected partition int32 (N,), all partitions, finest first) of a class's features (N, D).

    If a class has fewer partitions or images than requested, its last partition or one cluster per image is selected.
    """
    partitions = finch(points, config.metric, purity_filter=config.purity_filter)
    if not config.clusters:
        index = len(partitions) - 1 if config.partition == "last" else int(config.partition)
        return partitions[min(index, len(partitions) - 1)], partitions
    num_clusters = min(config.clusters, len(points))
    finer = [partition for partition in partitions if partition.max() + 1 >= num_clusters]
    start = finer[-1] if finer else np.arange(len(points), dtype=np.int32)
    return merge_clusters(points, start, num_clusters, config.metric), partitions
