"""A `clusters` shard as people read it: how many images and clusters each class has."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.shards import Shard


def cluster_table(shard: Shard) -> dict[str, dict[str, Any]]:
    """Return {class: {"images", "clusters"}} of a `clusters` shard; of FINCH also "partitions", the clusters of each.

    Partitions are those of the class itself, finest first. Raises BadData.
    """
    assignment, counts = shard.root("assignment"), shard.root("n_clusters")
    table: dict[str, dict[str, Any]] = {
        name: {"images": int((assignment[:, class_id] >= 0).sum()), "clusters": int(counts[class_id])}
        for class_id, name in enumerate(shard.classes) if class_id}
    if shard.provenance[-1].get("method") == "finch" and counts.any():
        largest = shard.root("partitions").max(axis=1, initial=-1) + 1
        for class_id, levels in enumerate(shard.root("n_partitions").tolist()):
            if class_id:
                table[shard.classes[class_id]]["partitions"] = np.asarray(largest[:levels, class_id]).tolist()
    return table
