"""Settings of `wsss show`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class ShowConfig:
    """Settings of `show`."""

    ids: tuple[str, ...] = setting((), "The images to show; empty: --count of them.")
    count: int = setting(1, "How many, when no ids are given, evenly spread.", low=1, high=1000)
    background: str = setting("", "Show the mask of maps without background under this rule, instead of heat.")
    titles: tuple[str, ...] = setting((), "Title of the column of each run, in their order; empty: the runs' file "
                                      "names.")
    truth: bool = setting(False, "Add a column with the ground truth.")
    cell: int = setting(240, "Side of a picture in a sheet.", low=32, high=2000, unit="pixels")
    terminal: bool = setting(False, "Draw in the terminal by half blocks, instead of a PNG.")
    columns: int = setting(80, "Width in the terminal.", low=8, high=500, unit="characters")
