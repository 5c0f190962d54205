"""Settings of `wsss show`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting

SORT_KEYS = ("score", "iou", "disagreement")
GRAPHICS = ("auto", "blocks", "kitty", "sixel")


@dataclass(frozen=True)
class ShowConfig:
    """Settings of `show`."""

    ids: tuple[str, ...] = setting((), "Ids of the images to show; if empty, --count images are shown.")
    count: int = setting(1, "Number of images to show without --ids or --worst, evenly spread over the run.", low=1,
                         high=1000)
    classes: tuple[str, ...] = setting((), "Names of the classes to draw; if empty, all classes of the image.")
    sort: str = setting("", "Order of the images, the worst first: score (lowest score of the best class), iou (lowest "
                        "mean IoU of the first run with the ground truth) or disagreement (lowest mean IoU "
                        "between the first two runs). CAMs without a background need --background for the last two.",
                        choices=("", *SORT_KEYS))
    worst: int = setting(0, "Show the N worst images by --sort, which is then iou if there is ground truth and masks "
                         "to compare with it, and score otherwise.", low=0, high=1000)
    background: str = setting("", "Draw CAMs as masks, those without a background under this rule, instead of heat "
                              "maps.")
    titles: tuple[str, ...] = setting((), "Title of each run, in their order; if empty, the names of the runs.")
    truth: bool = setting(False, "Add the ground truth.")
    cell: int | None = setting(None, "Side of a photograph.", source="default: 320 for one photograph, 240 for several",
                               low=32, high=2000, unit="pixels")
    terminal: bool = setting(False, "Draw in the terminal, instead of writing a file.")
    graphics: str = setting("auto", "How the terminal draws: with half-block characters, or pixels by the kitty or "
                            "sixel protocol; auto uses what the terminal is known to support.", choices=GRAPHICS)
    columns: int = setting(80, "Width of the drawing in the terminal.", low=8, high=500, unit="characters")
