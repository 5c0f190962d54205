"""Settings of `wsss setup`: none so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NltkConfig:
    """Settings of `setup nltk`."""
