"""Plot the mIoU of CAMs against the sharpness of their prompt, one point per prompt (CLIP-ES, figure 3).

    python plot_prompts.py --sharpness templates.json --templates chosen.txt --results 0.json 1.json -o figure3.png

`--sharpness` are results of `wsss prompts --json`. `--templates` is a file with one prompt per line, and `--results`
are results of `wsss eval --json` for the CAMs of each prompt, in the same order. The prompt on the first line is
marked. Also computes the rank correlation (Spearman), which is negative if less sharp prompts give better CAMs.
Writes figure3.png and figure3.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from figure_style import COLOURS, create_figure, parse_png_path, save_figure
from plot_curves import read_miou

HEADER = ("template", "sharpness", "miou_percent")
Row = tuple[str, float, float]


def read_sharpness(paths: list[Path]) -> dict[str, float]:
    """Return the sharpness of each template. Raises OSError, or ValueError for a file of another kind."""
    sharpness: dict[str, float] = {}
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict) or not isinstance(result.get("templates"), list):
            raise ValueError(f"{path} is not a result of `wsss prompts --json`")
        sharpness |= {row["template"]: float(row["sharpness"]) for row in result["templates"]}
    return sharpness


def read_rows(sharpness: dict[str, float], templates: list[str], results: list[Path]) -> list[Row]:
    """Return (template, sharpness, mIoU in percent) of each template. Raises OSError, ValueError."""
    if len(templates) != len(results):
        raise ValueError(f"there are {len(templates)} templates and {len(results)} results. Pass one result for each "
                         "template with --results.")
    unknown = [template for template in templates if template not in sharpness]
    if unknown:
        raise ValueError(f"--sharpness has no value for the template {unknown[0]!r}. Run `wsss prompts` for it.")
    return [(template, sharpness[template], read_miou(result))
            for template, result in zip(templates, results, strict=True)]


def compute_rank_correlation(xs: list[float], ys: list[float]) -> float | None:
    """Return Spearman's correlation, with mean ranks for ties; None if a side is constant or has a single value."""
    def compute_ranks(values: list[float]) -> list[float]:
        ordered = sorted(values)
        return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]

    try:
        return statistics.correlation(compute_ranks(xs), compute_ranks(ys))
    except statistics.StatisticsError:
        return None


def plot_prompts(rows: list[Row], correlation: float | None, *, title: str) -> Any:
    """Return the figure: a point for each prompt, the first marked by a star and named in the legend."""
    figure, axes = create_figure()
    (template, x, y), others = rows[0], rows[1:]
    axes.plot([row[1] for row in others], [row[2] for row in others], "o", color=COLOURS[0], label="other prompts")
    axes.plot(x, y, "*", color=COLOURS[1], markersize=10, label=f'"{template}"')
    correlation_text = "undefined" if correlation is None else f"{correlation:.2f}"
    axes.set(title=title, xlabel="sharpness (variance / mean, no unit)", ylabel="mIoU (%)")
    axes.locator_params(axis="x", nbins=5)
    axes.legend(loc="best", title=f"rank correlation {correlation_text}", title_fontsize=7)
    return figure


def main() -> int:
    """Write the figure, print the paths, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sharpness", nargs="+", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--templates", type=Path, required=True, metavar="FILE.txt")
    parser.add_argument("--results", nargs="+", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--title", default="", help="Title of the figure.")
    parser.add_argument("-o", dest="output", required=True, metavar="FILE.png")
    arguments = parser.parse_args()
    try:
        path = parse_png_path(arguments.output)
        templates = arguments.templates.read_text(encoding="utf-8").splitlines()
        rows = read_rows(read_sharpness(arguments.sharpness), templates, arguments.results)
        correlation = compute_rank_correlation([row[1] for row in rows], [row[2] for row in rows])
        save_figure(plot_prompts(rows, correlation, title=arguments.title), path, HEADER,
                    [(template, f"{sharpness:.6g}", f"{miou:.4f}") for template, sharpness, miou in rows])
    except (OSError, ValueError, KeyError) as error:
        print(f"plot_prompts.py: {error}", file=sys.stderr)
        return 66 if isinstance(error, FileNotFoundError) else 65
    print(path, path.with_suffix(".csv"), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
