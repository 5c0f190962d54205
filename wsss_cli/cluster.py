"""`wsss cluster`."""

from __future__ import annotations

from functools import partial

from stages.cluster.config import FinchConfig, KmeansConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add, group
from wsss_cli.options import FILE, INDEX, LOG, REFUSED, REPLACE, Named

app = group("cluster", "Sub-categories of every class.")
SHEET = Named("sheet", "FILE.png", "Also draw a contact sheet of the clusters.", required=False)
EXTRA = (FILE, INDEX, REPLACE, LOG, {"allow_errors": REFUSED["allow_errors"]})


def _run(method: str, call: Call) -> Summary:
    from stages.cluster.stage import run
    return run(method, call.config, call.inputs, call.output, stop=call.stop, report=call.report)


add(app, "finch", stage="cluster finch", run=partial(_run, "finch"), config=FinchConfig, inputs="FEATURES...",
    example="wsss cluster finch features -o clusters.h5 --sheet clusters.png",
    text="First neighbours (FINCH), without a number of clusters. Reads shards of kind features. Writes one shard of "
         "kind clusters: assignment and n_clusters of the chosen partition, and all partitions. Holds all features "
         "(4 bytes a number, twice), those of the largest class four times more, and a block of their distances; for "
         "each partition 4 bytes an image and class.",
    named=(SHEET,), extra=EXTRA)
add(app, "kmeans", stage="cluster kmeans", run=partial(_run, "kmeans"), config=KmeansConfig, inputs="FEATURES...",
    example="wsss cluster kmeans features --clusters 10 -o clusters.h5",
    text="K-means. Reads shards of kind features. Writes one shard of kind clusters: assignment and n_clusters. "
         "Holds all features (4 bytes a number, twice), and those of the largest class seven times more.",
    named=(SHEET,), extra=EXTRA)
