"""Settings of `wsss cluster`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class FinchConfig:
    """Settings of `cluster finch`."""

    metric: str = setting("cosine", "Distance of features.", choices=("cosine", "euclidean"),
                          source="Sub-category Teaching")
    partition: str = setting("last", "Which partition: last (the coarsest), or N counted from 0 (the finest); where "
                             "a class has fewer, its last.",
                             source="Sub-category Teaching: last")
    clusters: int = setting(0, "Instead of a partition: so many clusters a class, fewer where it has fewer images.",
                            low=0)
    purity_filter: bool = setting(False, "Cut links of later levels that are longer than all of the first.",
                                  source="FINCH, released code: on")


@dataclass(frozen=True)
class KmeansConfig:
    """Settings of `cluster kmeans`."""

    clusters: int = setting(10, "Clusters a class; fewer where it has fewer images.", low=1, source="SC-CAM")
    metric: str = setting("euclidean", "Distance of features; cosine scales them to unit length first.",
                          choices=("cosine", "euclidean"))
    iterations: int = setting(300, "Steps at most.", low=1, source="SC-CAM")
    restarts: int = setting(10, "Starts, of which the best is kept.", low=1)
    seed: int = setting(0, "Seed of the starts.", low=0)
