"""Settings of `wsss merge`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class MergeConfig:
    """Settings of `merge`."""

    parts: int = setting(1, "Number of shards to write; the parts of the run are divided evenly among them.", low=1)
