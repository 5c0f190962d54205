"""Label Studio: JSON tasks with predictions (brush run lengths or polygons), and the labelling configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from stages.export.config import LabelStudioConfig
from stages.export.cvat import list_labels, list_regions
from stages.export.exported_set import ExportedFile, ExportedImage, ExportedSet, format_hex
from stages.export.polygons import combine_iou, find_polygons
from stages.kernels.polygons import split_components

_CONTROLS = {"brush": "BrushLabels", "polygon": "PolygonLabels"}
_SIZE_BITS = (4, 8, 12, 16)  # of the lengths of runs, of which two bits choose one
_WORD_BITS = 8


def build_files(exported: ExportedSet, config: LabelStudioConfig) -> Iterator[ExportedFile]:
    """Yield tasks.json, which is encoded while it is written, and label_config.xml."""
    yield "tasks.json", _encode_tasks(exported, config)
    yield "label_config.xml", _build_label_config(exported, config)
    folder = "the output folder" if config.images != "none" else "the folder of the images"
    exported.statistics.notes.append(
        f"tasks.json names the images by {config.url_prefix!r} and their path below {folder}.")


def _build_label_config(exported: ExportedSet, config: LabelStudioConfig) -> bytes:
    control = _CONTROLS[config.shapes]
    labels = "".join(f"    <Label value={quoteattr(name)} background=\"{format_hex(colour)}\"/>\n"
                     for name, colour in list_labels(exported, keeps_ignored=config.ignored == "keep"))
    return (f'<View>\n  <Image name="image" value="$image"/>\n  <{control} name="label" toName="image">\n{labels}'
            f"  </{control}>\n</View>\n").encode()


def _encode_tasks(exported: ExportedSet, config: LabelStudioConfig) -> Iterator[bytes]:
    separator = b"[\n"
    for image in exported.images:
        results = list(_list_results(image, exported, config))
        path = image.file_name if config.images == "none" else f"images/{image.file_name}"
        task = {"data": {"image": config.url_prefix + quote(path), "id": image.id},
                "predictions": [{"model_version": "wsss", "result": results}]}
        yield separator + json.dumps(task, ensure_ascii=False).encode()
        separator = b",\n"
    yield b"\n]\n"


def _list_results(image: ExportedImage, exported: ExportedSet, config: LabelStudioConfig) -> Iterator[dict[str, Any]]:
    number = 0
    for name, region in list_regions(image.read_mask(), exported):
        build = _build_brushes if config.shapes == "brush" else _build_polygons
        for value in build(image, name, region, exported, config):
            number += 1
            kind = _CONTROLS[config.shapes].lower()
            yield {"id": f"r{number}", "type": kind, "from_name": "label", "to_name": "image",
                   "original_width": image.width, "original_height": image.height, "image_rotation": 0,
                   "value": {**value, kind: [name]}}


def _build_brushes(image: ExportedImage, name: str, region: np.ndarray, exported: ExportedSet,
                   config: LabelStudioConfig) -> Iterator[dict[str, Any]]:
    if not config.components:
        yield {"format": "rle", "rle": encode_brush(region)}
        return
    for box, component in split_components(region):
        whole = np.zeros(region.shape, dtype=bool)
        whole[box] = component
        yield {"format": "rle", "rle": encode_brush(whole)}


def _build_polygons(image: ExportedImage, name: str, region: np.ndarray, exported: ExportedSet,
                    config: LabelStudioConfig) -> Iterator[dict[str, Any]]:
    polygons = list(find_polygons(region, config.tolerance))
    exported.statistics.add_iou(combine_iou(polygons), name, image.id)
    for polygon in polygons:
        percent = polygon.points * (100 / image.width, 100 / image.height)
        yield {"points": percent.round(4).tolist(), "closed": True}


def encode_brush(region: np.ndarray) -> list[int]:
    """Return a boolean mask (H, W) as the bytes of Label Studio's brush: run lengths of RGBA values, packed in bits.

    A header says the number of values, the bits of a value, and four sizes. Each run is: 1, the choice of a size, its
    length - 1 in that size, and its value (0 or 255 in all four channels).
    """
    flat = region.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [flat.size]])) * 4
    values = np.where(flat[starts], 255, 0)
    bits = [_format_bits(flat.size * 4, 32), _format_bits(_WORD_BITS - 1, 5),
            *(_format_bits(size - 1, 4) for size in _SIZE_BITS)]
    for length, value in zip(lengths.tolist(), values.tolist(), strict=True):
        bits += _format_run(length, value)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def _format_run(length: int, value: int) -> Iterator[str]:
    while length:
        part = min(length, 1 << _SIZE_BITS[-1])
        choice = next(index for index, size in enumerate(_SIZE_BITS) if part <= 1 << size)
        yield f"1{choice:02b}{_format_bits(part - 1, _SIZE_BITS[choice])}{_format_bits(value, _WORD_BITS)}"
        length -= part


def _format_bits(value: int, size: int) -> str:
    return f"{value:0{size}b}"
