"""Settings of `wsss check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckConfig:
    """`check` has no settings."""
