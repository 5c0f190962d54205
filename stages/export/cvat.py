"""CVAT for images 1.1: one XML file with polygons or masks, and the labels with their colours."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from stages.export.config import CvatConfig
from stages.export.exported_set import (
    IGNORED_COLOUR,
    IGNORED_LABEL,
    ExportedFile,
    ExportedImage,
    ExportedSet,
    compute_class_colours,
    format_hex,
)
from stages.export.polygons import combine_iou, find_polygons
from stages.kernels.polygons import split_components


def build_files(exported: ExportedSet, config: CvatConfig) -> Iterator[ExportedFile]:
    """Yield annotations.xml, which is encoded while it is written."""
    yield "annotations.xml", (text.encode() for text in _encode(exported, config))


def _encode(exported: ExportedSet, config: CvatConfig) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n<task>\n'
    yield f"<name>wsss</name>\n<size>{sum(1 for _ in exported.images)}</size>\n<mode>annotation</mode>\n<labels>\n"
    for name, colour in list_labels(exported, keeps_ignored=config.ignored == "keep"):
        yield (f"<label>\n<name>{escape(name)}</name>\n<color>{format_hex(colour)}</color>\n<type>any</type>\n"
               "<attributes></attributes>\n</label>\n")
    yield "</labels>\n</task>\n</meta>\n"
    for number, image in enumerate(exported.images):
        yield (f'<image id="{number}" name={quoteattr(image.file_name)} width="{image.width}" '
               f'height="{image.height}">\n')
        mask = image.read_mask()
        for name, region in list_regions(mask, exported):
            yield from _encode_region(image, name, region, exported, config)
        yield "</image>\n"
    yield "</annotations>\n"


def list_labels(exported: ExportedSet, *, keeps_ignored: bool) -> list[tuple[str, tuple[int, int, int]]]:
    """Return (name, colour) of all classes but the background, and of the ignored pixels if they are kept."""
    colours = compute_class_colours(len(exported.classes) - 1)
    labels = list(zip(exported.classes, colours, strict=True))[1:]
    return [*labels, (IGNORED_LABEL, IGNORED_COLOUR)] if keeps_ignored else labels


def list_regions(mask: np.ndarray, exported: ExportedSet) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (label, boolean mask) of each class in a mask, and of the ignored pixels."""
    for class_id in exported.list_present(mask):
        yield exported.classes[class_id], mask == class_id
    ignored = mask == exported.ignore_index
    if ignored.any():
        yield IGNORED_LABEL, ignored


def _encode_region(image: ExportedImage, name: str, region: np.ndarray, exported: ExportedSet,
                   config: CvatConfig) -> Iterator[str]:
    common = f'label={quoteattr(name)} source="auto" occluded="0"'
    if config.shapes == "mask":
        for box, component in split_components(region) if config.components else [_crop(region)]:
            yield (f'<mask {common} rle="{", ".join(map(str, _count_runs(component)))}" left="{box[1].start}" '
                   f'top="{box[0].start}" width="{component.shape[1]}" height="{component.shape[0]}" z_order="0">'
                   "</mask>\n")
        return
    polygons = list(find_polygons(region, config.tolerance))
    exported.statistics.add_iou(combine_iou(polygons), name, image.id)
    for polygon in polygons:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon.points.tolist())
        yield f'<polygon {common} points="{points}" z_order="0"></polygon>\n'


def _crop(region: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return box, region[box]


def _count_runs(region: np.ndarray) -> list[int]:
    """Return the lengths of the runs of equal pixels, row by row, starting with (maybe 0) pixels outside."""
    flat = np.concatenate([[False], region.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [region.size]])).tolist()
