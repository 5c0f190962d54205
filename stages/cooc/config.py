"""Settings of `wsss cooc`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class CoocConfig:
    """Settings of `cooc`."""

    diagonal: str = setting("single", "Diagonal of the matrix: the images of a class without another class (single), "
                            "all images of the class (all), or zero.", choices=("single", "all", "zero"),
                            source="CSD, by its text")
