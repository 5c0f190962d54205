"""Settings of `wsss export`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class PngConfig:
    """Settings of `export png`."""

    palette: bool = setting(True, "Colour the class ids with the VOC palette; otherwise write them as grey values.")


@dataclass(frozen=True)
class VocConfig:
    """Settings of `export voc`."""

    split: str = setting("train", "Name of the list of images that is written.")
    submission: bool = setting(False, "Write the layout of the official VOC test server instead.")
    competition: str = setting("comp6", "Competition of a submission (comp5: trained on VOC only; comp6: on any data).",
                               choices=("comp5", "comp6"))
