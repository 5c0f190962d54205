"""Turns a run into a table of pandas, which is optional and imported only here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stages.errors import Unavailable
from wsss_api.items import CamItem, FeatureItem, IndexItem, MaskItem, RegionItem

if TYPE_CHECKING:
    import pandas

    from wsss_api.runs import Run


def build_table(run: Run[Any]) -> pandas.DataFrame:
    """Return the table of a run, as `Run.to_pandas` describes it. Raises Unavailable if pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise Unavailable("tables need the package pandas, which is not installed",
                          "Install it with `pip install pandas`, or read the items of the run") from None
    if run.kind == "cooc":
        names = list(run.classes[1:])
        return pandas.DataFrame(run.arrays["counts"], index=pandas.Index(names, name="class"), columns=names)
    return pandas.DataFrame(build_rows(run), columns=list(list_columns(run))).set_index("id")


def list_columns(run: Run[Any]) -> tuple[str, ...]:
    """Return the columns of a run that has images."""
    if run.kind == "features":
        return ("id", *(f"f{number}" for number in range(run.arrays["features"].shape[1])))
    if run.kind == "clusters":
        return ("id", *run.classes[1:])
    return {"index": ("id", "path", "height", "width", "tags", "captions", "has_mask"),
            "cams": ("id", "class", "class_id", "score", "mean", "max", "height", "width"),
            "masks": ("id", "class", "class_id", "pixels", "share", "confidence"),
            "regions": ("id", "region", "pixels", "share")}[run.kind]


def build_rows(run: Run[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of the table, with the columns of `list_columns`."""
    return [row for item in run for row in _build_item_rows(item)]


def _build_item_rows(item: Any) -> list[tuple[Any, ...]]:
    if isinstance(item, IndexItem):
        height, width = item.size or (None, None)
        return [(item.id, item.path, height, width, item.tags, item.captions, item.has_mask)]
    if isinstance(item, CamItem):
        return _build_cam_rows(item)
    if isinstance(item, MaskItem):
        return _build_mask_rows(item)
    if isinstance(item, RegionItem):
        return [(item.id, region, pixels, pixels / item.labels.size) for region, pixels in zip(
            *(values.tolist() for values in np.unique(item.labels, return_counts=True)), strict=True)]
    values = item.features if isinstance(item, FeatureItem) else item.assignment[1:]
    return [(item.id, *values.tolist())]


def _build_cam_rows(item: CamItem) -> list[tuple[Any, ...]]:
    """Return a row per class that has a CAM: its mean and maximum are between 0 and 1."""
    divisor = 255 if item.cam.dtype == np.uint8 else 1
    scores = [None] * len(item.cam) if item.scores is None else item.scores.tolist()
    return [(item.id, name, class_id, score, float(cam.astype(np.float64).mean()) / divisor,
             float(cam.max()) / divisor, *item.size)
            for name, class_id, score, cam in zip(item.class_names, item.class_ids.tolist(), scores, item.cam,
                                                  strict=True)]


def _build_mask_rows(item: MaskItem) -> list[tuple[Any, ...]]:
    """Return a row per class in the mask, also for background and unknown pixels (class_id 255 or 65535)."""
    rows = []
    for class_id, pixels in zip(*(values.tolist() for values in np.unique(item.mask, return_counts=True)),
                                strict=True):
        name = "unknown" if class_id == item.ignore_index else item.classes[class_id]
        confidence = None
        if item.confidence is not None:
            confidence = float(item.confidence[item.mask == class_id].mean()) / 255
        rows.append((item.id, name, class_id, pixels, pixels / item.mask.size, confidence))
    return rows
