"""Summarises a `clusters` shard: the number of images and clusters of each class."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.shards import Shard


def cluster_table(shard: Shard) -> dict[str, dict[str, Any]]:
    """Return {class: {"images", "clusters"}} of a `clusters` shard, for FINCH also "partitions".

    "partitions" lists the number of clusters in each partition of the class, finest first. Raises BadData.
    """
    assignment, num_clusters = shard.read_root("assignment"), shard.read_root("n_clusters")
    table: dict[str, dict[str, Any]] = {
        name: {"images": int((assignment[:, class_id] >= 0).sum()), "clusters": int(num_clusters[class_id])}
        for class_id, name in enumerate(shard.classes) if class_id}
    if shard.provenance[-1].get("method") == "finch" and num_clusters.any():
        partition_sizes = shard.read_root("partitions").max(axis=1, initial=-1) + 1
        for class_id, num_partitions in enumerate(shard.read_root("n_partitions").tolist()):
            if class_id:
                sizes = np.asarray(partition_sizes[:num_partitions, class_id])
                table[shard.classes[class_id]]["partitions"] = sizes.tolist()
    return table
