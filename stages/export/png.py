"""PNG files of class ids, with a map of their labels."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from stages.data.masks import encode_mask
from stages.export.config import PngConfig
from stages.export.exported_set import ExportedFile, ExportedSet, build_label_map


def build_files(exported: ExportedSet, config: PngConfig) -> Iterator[ExportedFile]:
    """Yield <id>.png of each image and labelmap.txt."""
    for image in exported.images:
        mask = image.read_mask()
        yield f"{image.id}.png", encode_mask(mask) if config.palette else _encode_grey_png(mask)
    yield from list_label_map(exported, keeps_ignored=config.ignored == "keep")


def list_label_map(exported: ExportedSet, *, keeps_ignored: bool) -> Iterator[ExportedFile]:
    """Yield labelmap.txt, with the name and colour of each id, if the names can be written in it."""
    data = build_label_map(exported, keeps_ignored=keeps_ignored)
    if data is not None:
        yield "labelmap.txt", data
    else:
        exported.statistics.notes.append("labelmap.txt is not written, because a class name contains a colon.")


def _encode_grey_png(mask: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
