"""Settings of `wsss export`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class PngConfig:
    """Settings of `export png`."""

    palette: bool = setting(True, "Colour the class ids by the VOC palette; without: grey values.")


@dataclass(frozen=True)
class VocConfig:
    """Settings of `export voc`."""

    split: str = setting("train", "Name of the list that is written.")
    submission: bool = setting(False, "The layout of the official test server instead.")
    competition: str = setting("comp6", "Competition of a submission (comp5: VOC data only; comp6: any).",
                               choices=("comp5", "comp6"))
