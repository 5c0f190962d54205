"""Objects as annotation files outline them, and the mask of class ids that they draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from stages.data.masks import get_ignore_index
from stages.data.run_lengths import Runs, decode_runs
from stages.errors import BadData

# The class id of an object whose pixels are neither a class nor background (`void`, `__ignore__`).
IGNORED_ID = -1


@dataclass(frozen=True)
class Shape:
    """One object of an image: its class id, and its region as polygons or as runs of pixels.

    `polygons` are float64 arrays (2n,), x and y of each corner in turn; they are joined. Coordinates are pixels, or
    fractions of the image's width and height if `is_relative`. `runs` are the lengths of alternating runs outside and
    inside the object, column by column, as an array or as COCO's compressed text. `size` is the (H, W) of the image
    that the object was drawn on, None if unknown. A crowd is ignored where no other object is. Objects of a higher
    `layer` cover those of a lower one, and within a layer smaller objects cover larger ones. `where` names the entry.
    `rasteriser` is how the annotation tool turns corners (n, 2) into pixels, bool (H, W), if not as pycocotools.
    """

    class_id: int
    polygons: tuple[np.ndarray, ...] = ()
    runs: Runs | None = None
    size: tuple[int, int] | None = None
    is_crowd: bool = False
    is_relative: bool = False
    layer: int = 0
    where: str = ""
    rasteriser: Callable[[np.ndarray, tuple[int, int]], np.ndarray] | None = None


def draw_shapes(shapes: Sequence[Shape], size: tuple[int, int], num_classes: int, *, remedy: str) -> np.ndarray:
    """Draw objects on an image of (H, W) `size`: class ids (H, W), uint8, or uint16 if there are over 254 classes.

    Polygons become pixels as in pycocotools, unless the shape has a rasteriser. Pixels without an object are 0. A crowd
    alone, and the class IGNORED_ID, get the ignore index. Raises BadData for an invalid object, with `remedy`, and for
    one drawn on another size.
    """
    ignore_index = get_ignore_index(num_classes)
    # In the order of pycocotools' masks, which makes drawing several times faster.
    mask = np.zeros(size, np.uint16 if ignore_index > 255 else np.uint8, order="F")
    for shape, region in _sort_by_layer([(shape, _encode_region(shape, size, remedy)) for shape in shapes]):
        is_ignored = shape.is_crowd or shape.class_id == IGNORED_ID
        np.copyto(mask, ignore_index if is_ignored else shape.class_id, where=coco_mask.decode(region).view(bool))
    return np.ascontiguousarray(mask)


def _sort_by_layer(regions: list[tuple[Shape, dict]]) -> list[tuple[Shape, dict]]:
    """Sort objects from the lowest to the uppermost: crowds, then layers, then large before small ones."""
    return sorted(regions, key=lambda pair: (not pair[0].is_crowd, pair[0].layer, -int(coco_mask.area(pair[1]))))


def _encode_region(shape: Shape, size: tuple[int, int], remedy: str) -> dict:
    """Return the pixels of an object as pycocotools' RLE, which is small."""
    if shape.size is not None and tuple(shape.size) != tuple(size):
        raise _build_size_error(shape, size)
    if shape.runs is not None:
        return _encode_pixels(decode_runs(shape.runs, size, where=shape.where))
    if not shape.polygons:
        raise BadData("the object has no polygon", remedy, where=shape.where)
    scale = np.array([size[1], size[0]], float) if shape.is_relative else np.ones(2)
    polygons = [_check_polygon(polygon, scale, size, shape.where, remedy) for polygon in shape.polygons]
    if shape.rasteriser is not None:
        regions = [shape.rasteriser(polygon.reshape(-1, 2), size) for polygon in polygons]
        return _encode_pixels(np.logical_or.reduce(regions))
    return coco_mask.merge(coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], *size))


def _encode_pixels(region: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(region).view(np.uint8))


def _build_size_error(shape: Shape, size: tuple[int, int]) -> BadData:
    height, width = shape.size or size
    remedy = "Use the image that was annotated, or annotations for this size"
    if (width, height) == tuple(size):
        remedy = "If EXIF rotates the image, run `wsss index` with --apply-exif"
    return BadData(f"the object was drawn on an image of {height}x{width} pixels (height x width), but the image has "
                   f"{size[0]}x{size[1]}", remedy, where=shape.where)


def _check_polygon(polygon: np.ndarray, scale: np.ndarray, size: tuple[int, int], where: str,
                   remedy: str) -> np.ndarray:
    """Return the coordinates (2n,) in pixels. Raises BadData for a polygon that has no area or is elsewhere."""
    if polygon.size % 2:
        raise BadData(f"a polygon has {polygon.size} numbers, but x and y come in pairs", remedy, where=where)
    if polygon.size < 6:
        raise BadData(f"a polygon has {polygon.size // 2} points, but needs at least 3", remedy, where=where)
    if not np.isfinite(polygon).all():
        raise BadData(f"a polygon has the coordinate {polygon[~np.isfinite(polygon)][0]}", remedy, where=where)
    corners = polygon.reshape(-1, 2) * scale
    limits = np.array([size[1], size[0]], float)
    # Annotation tools let objects reach a little over the border. Far outside, the image or the units are wrong, and
    # drawing would need memory in proportion to the distance.
    is_far = ((corners < -limits.max()) | (corners > limits + limits.max())).any(axis=1)
    is_elsewhere = (corners.max(axis=0) < 0).any() or (corners.min(axis=0) > limits).any()
    if is_far.any() or is_elsewhere:
        x, y = corners[is_far.argmax()]
        raise BadData(f"a polygon has the corner ({x:g}, {y:g}), which is outside the image of {size[1]}x{size[0]} "
                      "pixels (width x height)", remedy, where=where)
    return corners.ravel()
