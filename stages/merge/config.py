"""Settings of `wsss merge`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class MergeConfig:
    """Settings of `merge`."""

    parts: int = setting(1, "Shards to write; each takes about as many parts as the others.", low=1)
