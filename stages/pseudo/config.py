"""Settings of `wsss pseudo`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class PseudoConfig:
    """Settings of `pseudo`."""

    background: str = setting("", "constant:V, power:A, two-thresholds:LOW,HIGH or from:EVAL.json; empty: "
                              "constant:0.3, or none where the maps include the background.")
    min_confidence: float = setting(0.0, "Mark pixels of less confidence as ignored.", low=0, high=1,
                                    source="CLIP-ES: 0.95 on CRF posteriors")
    threads: int = setting(1, "CPU threads of each worker.", low=1)


DEFAULT_BACKGROUND = "constant:0.3"
