"""Plot mIoU against a number, a curve for each data set or method, from results of `wsss eval --json`.

    python plot_curves.py "VOC@0.4=lambda-0.4.json" "VOC@0.5=lambda-0.5.json" --x-label lambda -o figure.png

A point is CURVE@X=FILE. Points with the same curve and X are several seeds; their mean is plotted, with the standard
deviation (n - 1) as a bar. The best point of a curve is circled and named in the legend. Writes figure.png and
figure.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from figure_style import COLOURS, MARKERS, create_figure, parse_png_path, save_figure

HEADER = ("curve", "x", "miou_percent", "deviation", "results")
Point = tuple[float, float, float, int]  # x, mean, deviation, number of results


def read_curves(points: list[str]) -> dict[str, list[Point]]:
    """Return the points of each curve, sorted by x. Raises ValueError for an invalid CURVE@X=FILE or result."""
    scores: dict[str, dict[float, list[float]]] = {}
    for text in points:
        name, equals, file = text.partition("=")
        curve, separator, x = name.rpartition("@")
        if not (equals and separator and curve):
            raise ValueError(f"{text!r} does not have the form CURVE@X=FILE, for example VOC@0.4=lambda-0.4.json")
        scores.setdefault(curve, {}).setdefault(float(x), []).append(read_miou(Path(file)))
    return {curve: [(x, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))
                    for x, values in sorted(by_x.items())] for curve, by_x in scores.items()}


def read_miou(path: Path) -> float:
    """Return the mIoU of a result in percent. Raises OSError, or ValueError if there is none."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(result, dict) or not isinstance(result.get("miou"), float):
        raise ValueError(f"{path} is not a result of `wsss eval --json` with an mIoU")
    return 100 * result["miou"]


def plot_curves(curves: dict[str, list[Point]], *, title: str, x_label: str) -> Any:
    """Return the figure of the curves."""
    figure, axes = create_figure()
    for index, (name, points) in enumerate(curves.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        xs, means, deviations, _ = zip(*points, strict=True)
        best = max(points, key=lambda point: point[1])
        axes.errorbar(xs, means, yerr=deviations if any(deviations) else None, color=colour, marker=marker, capsize=2,
                      label=f"{name} (best {best[1]:.1f} at {best[0]:g})")
        axes.plot(best[0], best[1], marker="o", markersize=9, color=colour, markerfacecolor="none", linestyle="none")
    axes.set(title=title, xlabel=x_label, ylabel="mIoU (%)")
    axes.legend(loc="best")
    return figure


def main() -> int:
    """Write the figure, print the paths, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", metavar="CURVE@X=FILE")
    parser.add_argument("--title", default="", help="Title of the figure.")
    parser.add_argument("--x-label", default="", help="Label of the horizontal axis, with its unit.")
    parser.add_argument("-o", dest="output", required=True, metavar="FILE.png")
    arguments = parser.parse_args()
    try:
        path = parse_png_path(arguments.output)
        curves = read_curves(arguments.points)
        figure = plot_curves(curves, title=arguments.title, x_label=arguments.x_label)
        save_figure(figure, path, HEADER, [
            (name, f"{x:g}", f"{mean:.4f}", f"{deviation:.4f}", results)
            for name, points in curves.items() for x, mean, deviation, results in points])
    except (OSError, ValueError) as error:
        print(f"plot_curves.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    print(path, path.with_suffix(".csv"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
