"""Settings of `wsss explain`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExplainConfig:
    """`explain` has no settings."""
