"""Settings of `wsss cooc`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class CoocConfig:
    """Settings of `cooc`."""

    diagonal: str = setting("single", "What a class counts with itself: its images without another class, all its "
                            "images, or zero.", choices=("single", "all", "zero"), source="CSD, by its text")
