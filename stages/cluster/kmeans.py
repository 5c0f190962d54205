"""Cluster the images of a class into sub-categories by k-means.

As in Sub-category Exploration (SC-CAM; Chang et al., CVPR 2020).
"""

from __future__ import annotations

import warnings

import numpy as np

from stages.cluster.config import KmeansConfig


def compute_clusters(points: np.ndarray, config: KmeansConfig) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return (partition int32 (N,), []) of a class's features (N, D), with at most one cluster per distinct point."""
    from sklearn.cluster import KMeans

    points = points.astype(np.float64)
    if config.metric == "cosine":
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.where(lengths > 0, lengths, 1)
    num_clusters = min(config.clusters, len(np.unique(points, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kmeans = KMeans(num_clusters, n_init=config.restarts, max_iter=config.iterations, random_state=config.seed)
        kmeans.fit(points)
    return kmeans.labels_.astype(np.int32), []
