"""Contours of masks: rasterised by others' code they are the mask again, also with holes and single pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks
from scipy import ndimage

from stages.kernels.polygons import simplify_polygon, split_components, trace_polygon

Y, X = np.mgrid[:40, :50]
RADIUS = np.hypot(Y - 20, X - 25)
SHAPES = {
    "pixel": np.array([[1]]),
    "line": np.ones((1, 7)),
    "corner": np.array([[1, 0], [0, 1]]),
    "whole image": np.ones((5, 9)),
    "ring": (RADIUS < 18) & (RADIUS > 6),
    "island in a ring": ((RADIUS < 18) & (RADIUS > 6)) | (RADIUS < 3),
    "hole of one pixel": np.pad(np.zeros((1, 1)), 1, constant_values=1),
    "many holes": (X % 3 > 0) | (Y % 4 > 0),
    "holes that touch": np.pad(1 - np.eye(4), 1, constant_values=1),
    "chess board": (X + Y) % 2,
    **{f"noise {share}": np.random.default_rng(1).random((30, 40)) < share for share in (0.2, 0.5, 0.8)},
}


def fill_by_centres(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rasterise a polygon as COCO does."""
    return coco_masks.decode(coco_masks.frPyObjects([points.ravel().tolist()], *size))[:, :, 0] > 0


def fill_with_outline(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rasterise a polygon as Pillow and labelme do."""
    picture = Image.new("L", size[::-1])
    ImageDraw.Draw(picture).polygon([tuple(point) for point in points.tolist()], fill=1, outline=1)
    return np.asarray(picture) > 0


@pytest.mark.parametrize("fill", [fill_by_centres, fill_with_outline])
@pytest.mark.parametrize("name", list(SHAPES))
def test_a_contour_reproduces_its_mask(name, fill):
    mask = SHAPES[name].astype(bool)
    again = np.zeros_like(mask)
    for box, component in split_components(mask):
        assert component.any() and (mask[box] | ~component).all()
        points, _ = trace_polygon(component)
        assert points.min() >= 0 and (points.max(0) <= component.shape[::-1]).all()
        again[box] |= fill(points, component.shape)
    np.testing.assert_array_equal(again, mask)


def test_components_are_those_of_eight_neighbours():
    mask = np.random.default_rng(2).random((30, 40)) < 0.3
    _, expected = ndimage.label(mask, np.ones((3, 3)))
    assert len(list(split_components(mask))) == expected
    assert list(split_components(np.zeros((3, 4), bool))) == []


def test_vertices_on_straight_lines_are_dropped():
    points, _ = trace_polygon(np.ones((20, 30), bool))
    assert len(points) == 8
    np.testing.assert_allclose(sorted({x for x, _ in points.tolist()}), [0.1, 0.5, 29.5, 29.9])


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_dropped_vertices_are_within_the_tolerance(tolerance):
    disk = RADIUS < 17.3
    exact, is_fixed = trace_polygon(disk)
    simple = simplify_polygon(exact, is_fixed, tolerance)
    assert 3 <= len(simple) < len(exact)
    assert {tuple(point) for point in simple.tolist()} <= {tuple(point) for point in exact.tolist()}
    starts, ends = simple, np.roll(simple, -1, 0)
    along = ends - starts
    fractions = ((exact[:, None] - starts) * along).sum(2) / (along**2).sum(1)
    nearest = starts + np.clip(fractions, 0, 1)[:, :, None] * along
    assert np.linalg.norm(exact[:, None] - nearest, axis=2).min(1).max() <= tolerance + 1e-9


def test_a_simplified_ring_keeps_its_hole():
    ring = SHAPES["ring"][2:-2, 6:-6]
    again = fill_by_centres(simplify_polygon(*trace_polygon(ring), 0.5), ring.shape)
    assert not again[18, 19], "the middle of the hole"
    assert (again & ring).sum() / (again | ring).sum() > 0.95
