"""`wsss cluster finch | kmeans`."""

from __future__ import annotations

from functools import partial

from stages.cluster.config import FinchConfig, KmeansConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import FAILED_IMAGES, FILE, INDEX, LOG, OVERWRITE, NamedInput

app = create_group("cluster", "Divide every class into sub-categories by clustering features.")
_SHEET = NamedInput("sheet", "FILE.png", "Also draw a contact sheet of the clusters.", required=False)
_OPTION_GROUPS = (FILE, INDEX, OVERWRITE, LOG, {"allow_errors": FAILED_IMAGES["allow_errors"]})


def _run(method: str, call: Call) -> Summary:
    from stages.cluster.stage import run
    return call.run(partial(run, method))


add_command(
    app, "finch", stage="cluster finch", run=partial(_run, "finch"), config=FinchConfig, argument="FEATURES...",
    example="wsss cluster finch features -o clusters.h5 --sheet clusters.png",
    summary="Cluster by first neighbours (FINCH); the number of clusters need not be known.",
    description="Reads features shards. Writes one clusters shard with assignment and n_clusters of the chosen "
                "partition, and all partitions. Memory: twice the size of the features (4 bytes per number), four more "
                "times that of the largest class, a block of their distances, and 4 bytes per image and class for each "
                "partition.",
    named_inputs=(_SHEET,), option_groups=_OPTION_GROUPS)
add_command(
    app, "kmeans", stage="cluster kmeans", run=partial(_run, "kmeans"), config=KmeansConfig, argument="FEATURES...",
    example="wsss cluster kmeans features --clusters 10 -o clusters.h5",
    summary="Cluster with k-means.",
    description="Reads features shards. Writes one clusters shard with assignment and n_clusters. Memory: twice the "
                "size of the features (4 bytes per number), and seven more times that of the largest class.",
    named_inputs=(_SHEET,), option_groups=_OPTION_GROUPS)
