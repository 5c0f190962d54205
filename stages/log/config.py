"""Settings of `wsss log`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting

FORMATS = ("text", "tsv", "csv", "json")
GRAPHICS = ("auto", "unicode", "ascii")


@dataclass(frozen=True)
class LogConfig:
    """Settings of `log`."""

    format: str = setting("text", "What to print: text with curves, a table of epochs or parts as TSV or CSV, or "
                          "everything as JSON.", choices=FORMATS)
    follow: bool = setting(False, "Print each further epoch or part until the training or the run ends.")
    interval: float = setting(2.0, "Time between two looks at the files with --follow.", low=0.05, high=3600,
                              unit="seconds")
    graphics: str = setting("auto", "Characters of the curves; auto uses ASCII where the terminal or the locale has no "
                            "others.", choices=GRAPHICS)
    columns: int = setting(0, "Width of the text; 0 is that of the terminal, and 80 in a pipe or file.", low=0,
                           high=500, unit="characters")
