"""Settings of `wsss pseudo`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class PseudoConfig:
    """Settings of `pseudo`."""

    background: str = setting("", "Background score against which the classes compete: constant:V, power:A, "
                              "two-thresholds:LOW,HIGH or from:EVAL.json (the best value that wsss eval found). If "
                              "empty, constant:0.3, or none if the CAMs include the background.")
    min_confidence: float = setting(0.0, "Mark pixels with a confidence below this value as ignored. Larger values "
                                    "ignore more pixels.", low=0, high=1, source="CLIP-ES: 0.95 on CRF posteriors")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


DEFAULT_BACKGROUND = "constant:0.3"
