"""Polygons of the classes of a mask, and how well they reproduce it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from stages.kernels.polygons import simplify_polygon, split_components, trace_polygon

_AIMED_IOU = 0.995  # of each polygon alone: two of neighbouring classes overlap a little, and one covers the other


@dataclass(frozen=True)
class Polygon:
    """The closed contour (P, 2) of x and y of one component, and the mask of its box at (left, top).

    Pixel (row, column) covers [column, column + 1) x [row, row + 1). Holes are cut open.
    """

    points: np.ndarray
    iou: float
    component: np.ndarray
    left: int
    top: int


def find_polygons(mask: np.ndarray, tolerance: float) -> Iterator[Polygon]:
    """Yield a polygon for each connected component of a boolean mask (H, W).

    The tolerance, in pixels, is halved for components whose IoU with their polygon would fall below 0.995.
    """
    for (rows, columns), component in split_components(mask):
        points, iou = _fit_polygon(component, tolerance)
        yield Polygon(points + np.array([columns.start, rows.start]), iou, component, columns.start, rows.start)


def _fit_polygon(component: np.ndarray, tolerance: float) -> tuple[np.ndarray, float]:
    exact, is_fixed = trace_polygon(component)
    for factor in (1.0, 0.5, 0.25) if tolerance else ():
        points = simplify_polygon(exact, is_fixed, tolerance * factor)
        if len(points) == len(exact):
            break
        iou = measure_iou(points, component) if len(points) >= 3 else 0.0
        if iou >= _AIMED_IOU:
            return points, iou
    return exact, measure_iou(exact, component)


def measure_iou(points: np.ndarray, component: np.ndarray) -> float:
    """Return the smaller IoU of a polygon with its mask (h, w) under the two kinds of rasteriser."""
    polygons = coco_masks.frPyObjects([points.ravel().tolist()], *component.shape)
    by_centres = coco_masks.decode(polygons)[:, :, 0].astype(bool)
    picture = Image.new("1", component.shape[::-1])
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], fill=1, outline=1)
    return min(_compute_iou(by_centres, component), _compute_iou(np.asarray(picture), component))


def _compute_iou(first: np.ndarray, second: np.ndarray) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def combine_iou(polygons: list[Polygon]) -> float:
    """Return the IoU of all polygons of a class with its mask, from those of its components, weighted by their area."""
    areas = [int(polygon.component.sum()) for polygon in polygons]
    return float(np.average([polygon.iou for polygon in polygons], weights=areas)) if areas else 1.0
