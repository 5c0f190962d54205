"""The table of images that `eval --per-image` writes: the mIoU of every image and run, and the IoU of its classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import Unavailable, UsageError
from stages.eval.details import Scores, compute_group_image_miou, list_named_classes
from stages.eval.image_counts import iterate_image_iou

_SUFFIXES = {"per_image": (".csv", ".parquet"), "confusion": (".csv", ".png", ".pdf")}


def check_table_suffix(path: Path, name: str) -> None:
    """Raise UsageError if a file is not of a kind that --per-image or --confusion (its `name`) can write.

    Raises Unavailable for Parquet without pyarrow, before anything is computed.
    """
    option = f"--{name.replace('_', '-')}"
    if path.suffix.lower() not in _SUFFIXES[name]:
        kinds = ", ".join(_SUFFIXES[name][:-1]) + f" or {_SUFFIXES[name][-1]}"
        raise UsageError(f"{option} {path} does not end in {kinds}", f"Use for example {option} FILE.csv")
    if path.suffix.lower() == ".parquet":
        _import_pyarrow()


def encode_image_table(path: Path, names: Sequence[str], classes: tuple[str, ...], scores: Scores,
                       ids: Sequence[str]) -> bytes:
    """Return the table of images as the bytes of a CSV or Parquet file, as the suffix of `path` says.

    Columns: id, the mIoU of each run, the difference of each run from the first, then the IoU of each run and class.
    IoU is in [0, 1], empty where an image has no pixel of a class. Groups have the mean of their seeds.
    """
    columns = dict(_iterate_columns(names, classes, scores))
    return (_encode_csv if path.suffix.lower() == ".csv" else _encode_parquet)(list(ids), columns)


def _iterate_columns(names: Sequence[str], classes: tuple[str, ...],
                     scores: Scores) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, values (N,) float32) of each column of numbers."""
    mious = [compute_group_image_miou(seeds) for seeds in scores]
    yield from ((name, miou.astype(np.float32)) for name, miou in zip(names, mious, strict=True))
    yield from ((f"{name} - {names[0]}", (miou - mious[0]).astype(np.float32))
                for name, miou in zip(names[1:], mious[1:], strict=True))
    for name, seeds in zip(names, scores, strict=True):
        start = f"{name}: " if len(names) > 1 else ""
        ious = _compute_class_iou(seeds)
        yield from ((f"{start}{class_name}", ious[:, index]) for index, class_name in list_named_classes(classes))


def _compute_class_iou(seeds: Sequence[Any]) -> np.ndarray:
    """Return the IoU (N, C) float32 of every image and class; of several seeds the mean of those that have it."""
    matrices = [seed.counts.build_matrix() for seed in seeds]
    total, number = 0, 0
    for matrix in matrices:
        iou = np.concatenate([block.astype(np.float32) for block in iterate_image_iou(matrix)])
        total, number = total + np.nan_to_num(iou), number + ~np.isnan(iou)
    return np.divide(total, number, out=np.full(total.shape, np.nan, np.float32), where=number > 0)


def _encode_csv(ids: list[str], columns: dict[str, np.ndarray]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", *columns])
    for index, item_id in enumerate(ids):
        writer.writerow([item_id, *("" if np.isnan(values[index]) else f"{values[index]:.6g}"
                                    for values in columns.values())])
    return file.getvalue().encode()


def _encode_parquet(ids: list[str], columns: dict[str, np.ndarray]) -> bytes:
    arrow, parquet = _import_pyarrow()
    arrays = {"id": arrow.array(ids, arrow.string())}
    arrays |= {name: arrow.array(values, from_pandas=True) for name, values in columns.items()}
    file = io.BytesIO()
    parquet.write_table(arrow.table(arrays), file)
    return file.getvalue()


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Unavailable("Parquet files need the package pyarrow, which is not installed",
                          "Install it with `pip install 'wsss[tables]'`, or write a .csv file") from None
    return pyarrow, pyarrow.parquet
