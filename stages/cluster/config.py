"""Settings of `wsss cluster`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class FinchConfig:
    """Settings of `cluster finch`."""

    metric: str = setting("cosine", "Distance between features.", choices=("cosine", "euclidean"),
                          source="Sub-category Teaching")
    partition: str = setting("last", "Partition to use: last (the coarsest), or its number N, 0 being the finest; "
                             "classes with fewer partitions use their last.",
                             source="Sub-category Teaching: last")
    clusters: int = setting(0, "Number of clusters per class (fewer if it has fewer images), instead of a partition; "
                            "0: use --partition.", low=0)
    purity_filter: bool = setting(False, "Cut links of later levels that are longer than every link of the first.",
                                  source="FINCH, released code: on")


@dataclass(frozen=True)
class KmeansConfig:
    """Settings of `cluster kmeans`."""

    clusters: int = setting(10, "Number of clusters per class; fewer if it has fewer images.", low=1, source="SC-CAM")
    metric: str = setting("euclidean", "Distance between features; cosine scales them to unit length first.",
                          choices=("cosine", "euclidean"))
    iterations: int = setting(300, "Maximum number of iterations.", low=1, source="SC-CAM")
    restarts: int = setting(10, "Number of random initialisations; the best result is used.", low=1)
    seed: int = setting(0, "Random seed of the initialisations.", low=0)
