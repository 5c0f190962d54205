"""The confusion matrix that `eval --confusion` writes: pixel counts as CSV, or shares as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from stages.data.annotated_heat_map import render_annotated_heat_map
from stages.eval.details import list_named_classes

NamedMatrices = Sequence[tuple[str, np.ndarray]]


def encode_confusion(matrices: NamedMatrices, classes: tuple[str, ...]) -> bytes:
    """Return confusion matrices (C, C + 1) of named runs as CSV: a row per run and true class, in pixels.

    The columns are the predicted classes, and `ignored` for pixels that are predicted as 255.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    named = list_named_classes(classes)
    kept = [index for index, _ in named]
    writer.writerow(["run", "true class", *(name for _, name in named), "ignored"])
    for run_name, matrix in matrices:
        writer.writerows([run_name, name, *matrix[index, [*kept, len(classes)]].tolist()] for index, name in named)
    return file.getvalue().encode()


def draw_confusion(matrices: NamedMatrices, classes: tuple[str, ...]) -> list[np.ndarray]:
    """Return one picture (H, W, 3) uint8 per run: the share of a true class (row) that is predicted as each class."""
    kept, names = zip(*list_named_classes(classes), strict=True)
    pictures = []
    for run_name, matrix in matrices:
        totals = matrix.sum(axis=1, keepdims=True)
        shares = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
        title = f"{run_name}: % of the pixels of the row's class that are predicted as the column's"
        pictures.append(render_annotated_heat_map(shares[np.ix_(kept, kept)], names, title=title))
    return pictures
