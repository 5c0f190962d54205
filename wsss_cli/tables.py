"""Tables on standard output: aligned on a terminal, TSV otherwise, or Markdown and LaTeX for a text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

Rows = Sequence[Sequence[str]]
_LATEX_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
                  "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}",
                  **{character: f"\\{character}" for character in "&%$#_{}"}}


def print_table(rows: Rows) -> None:
    """Print rows of text; the first is the header."""
    print(format_text(rows) if sys.stdout.isatty() else format_tsv(rows))


def format_text(rows: Rows) -> str:
    """Return rows in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def format_tsv(rows: Rows) -> str:
    """Return rows with tabs between the cells."""
    return "\n".join("\t".join(row) for row in rows)


def format_markdown(rows: Rows) -> str:
    """Return rows as a table of Markdown; all columns but the first are aligned to the right."""
    header, *body = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---", *["---:" for _ in header[1:]]], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def format_latex(rows: Rows) -> str:
    """Return rows as a tabular of LaTeX with the rules of the package booktabs."""
    header, *body = ["{} \\\\".format(" & ".join(map(_escape_latex, row))) for row in rows]
    columns = "l" + "r" * len(rows[0][1:])
    return "\n".join([f"\\begin{{tabular}}{{{columns}}}", "\\toprule", header, "\\midrule", *body, "\\bottomrule",
                      "\\end{tabular}"])


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(character, character) for character in text)


FORMATS: Mapping[str, Callable[[Rows], str]] = {"text": format_text, "tsv": format_tsv, "markdown": format_markdown,
                                                "latex": format_latex}
