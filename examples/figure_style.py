"""The style of the figures, and functions to save a figure as PNG with its numbers as CSV under the same name.

Width and font size fit a column of a two-column paper. The colours are those of Okabe and Ito, which people with any
colour vision can distinguish; markers differ as well, so that figures are readable in grey.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, DPI = 3.4, 2.5, 300  # inches, inches, pixels per inch
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
STYLE = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
         "legend.fontsize": 7, "lines.linewidth": 1.2, "lines.markersize": 4, "axes.grid": True, "grid.alpha": 0.3,
         "axes.spines.top": False, "axes.spines.right": False}


def create_figure(*, height: float = HEIGHT) -> tuple[Any, Any]:
    """Return a figure of one column and its axes. Exits with 69 if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print(f"{Path(sys.argv[0]).name}: plotting needs matplotlib, which is not installed. "
              "Run `pip install 'matplotlib>=3.8'`.", file=sys.stderr)
        raise SystemExit(69) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    pyplot.rcParams.update(STYLE)
    return pyplot.subplots(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def save_figure(figure: Any, path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write the figure to `path`, a PNG, and its numbers to a CSV file next to it. Raises OSError."""
    write_csv(path.with_suffix(".csv"), header, rows)
    # The version of matplotlib is left out, so that equal figures give equal files.
    figure.savefig(path, format="png", metadata={"Software": None})


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def parse_png_path(text: str) -> Path:
    """Return `text` as the path of a PNG. Raises ValueError for another suffix."""
    if not text.lower().endswith(".png"):
        raise ValueError(f"{text!r} does not end in .png")
    return Path(text)
