"""Settings of `wsss info`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InfoConfig:
    """`info` has no settings."""
