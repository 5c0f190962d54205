"""Settings of `wsss show`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class ShowConfig:
    """Settings of `show`."""

    ids: tuple[str, ...] = setting((), "Ids of the images to show; if empty, --count images are shown.")
    count: int = setting(1, "Number of images to show without --ids, evenly spread over the run.", low=1, high=1000)
    background: str = setting("", "Draw CAMs without a background row as masks under this rule, instead of heat maps.")
    titles: tuple[str, ...] = setting((), "Title of the column of each run, in their order; if empty, the names of "
                                      "the runs.")
    truth: bool = setting(False, "Add a column with the ground truth.")
    cell: int = setting(240, "Side of an image in the contact sheet.", low=32, high=2000, unit="pixels")
    terminal: bool = setting(False, "Draw in the terminal with half-block characters, instead of writing a PNG.")
    columns: int = setting(80, "Width of the drawing in the terminal.", low=8, high=500, unit="characters")
