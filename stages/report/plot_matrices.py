"""Matrices as tables whose cells are shaded by their share: they can be read aloud, and need no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from stages.report.plots import build_name


def plot_confusion(class_names: Sequence[str], matrix: np.ndarray, run: str = "") -> str:
    """Return the confusion matrix (C, C) of a run, rows true and columns predicted, in per cent of the row's pixels."""
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    texts = [[_format_share(share) for share in row] for row in shares]
    titles = [[f"{_format_share(share) or 'none'} % of {true} is predicted as {predicted}" for share, predicted
               in zip(row, class_names, strict=True)] for row, true in zip(shares, class_names, strict=True)]
    label = f"confused classes {run}".strip()
    return _build_matrix(label, "true class, in % of its pixels", class_names, shares, texts, titles)


def plot_cooccurrence(class_names: Sequence[str], matrix: np.ndarray) -> str:
    """Return the numbers of images (C, C) with both classes, shaded by their share of the images of the row's class."""
    diagonal = np.diagonal(matrix)[:, None]
    shares = np.minimum(np.divide(matrix, diagonal, out=np.zeros(matrix.shape), where=diagonal > 0), 1)
    texts = [[str(count) if count else "" for count in row] for row in matrix.tolist()]
    titles = [[f"{first} and {second}: {count} images" for count, second in zip(row, class_names, strict=True)]
              for row, first in zip(matrix.tolist(), class_names, strict=True)]
    return _build_matrix("classes that appear together", "tag", class_names, shares, texts, titles)


def _format_share(share: float) -> str:
    """Return a share as a whole per cent, "" for none at all and "<1" for less than one."""
    if np.isnan(share) or share <= 0:
        return ""
    return "<1" if share < 0.005 else f"{100 * share:.0f}"


def _build_matrix(label: str, corner: str, names: Sequence[str], shares: np.ndarray, texts: Sequence[Sequence[str]],
                  titles: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col"><span dir="auto">{escape(name)}</span></th>' for name in names)
    rows = "".join(f'<tr><th scope="row">{build_name(name)}</th>{_build_cells(*row)}</tr>'
                   for name, *row in zip(names, shares, texts, titles, strict=True))
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="Matrix: {escape(label, quote=True)}">'
            '<table class="matrix"><thead>'
            f'<tr><th scope="col" class="corner">{escape(corner)}</th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")


def _build_cells(shares: np.ndarray, texts: Sequence[str], titles: Sequence[str]) -> str:
    return "".join(f'<td title="{escape(title, quote=True)}" style="--share:{0 if np.isnan(share) else share:.3f}">'
                   f"{escape(text)}</td>"
                   for share, text, title in zip(shares, texts, titles, strict=True))
