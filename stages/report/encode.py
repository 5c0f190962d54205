"""Encode photographs, masks and CAMs for the page: arrays in, base64 text out.

Masks and CAMs become grey PNG files. The page gives them their colours by a palette that it writes into the file, so
that colours, opacity and thresholds can change without reading pixels back.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

_JPEG_QUALITY = 80
MAX_MASK_VALUES = 256  # of a PNG with one byte per pixel
IGNORED, OTHER = -1, -2  # instead of class ids
MAX_CAMS = 8  # per image and run; the page says how many more there are
MAX_CAM_SIDE = 180  # refined CAMs have the size of the photograph, of which a heat map needs only a part


def encode_photograph(image: np.ndarray) -> str:
    """Return an image (H, W, 3) uint8 as base64 of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def encode_mask(mask: np.ndarray, ignore_index: int) -> dict[str, Any]:
    """Return a mask (H, W) as {"c": the class id of each value, "d": base64 of a grey PNG}.

    The values of the PNG count the ids in the mask, so that masks of 16 bits fit. IGNORED stands for ignored pixels,
    and OTHER for the rarest classes of a mask with more than MAX_MASK_VALUES ids.
    """
    ids, indices, counts = np.unique(mask, return_inverse=True, return_counts=True)
    class_ids = [IGNORED if class_id == ignore_index else int(class_id) for class_id in ids]
    values = np.arange(len(ids))
    if len(ids) > MAX_MASK_VALUES:
        frequent = np.sort(np.argsort(-counts, kind="stable")[:MAX_MASK_VALUES - 1])
        values = np.full(len(ids), MAX_MASK_VALUES - 1)
        values[frequent] = np.arange(len(frequent))
        class_ids = [*(class_ids[position] for position in frequent), OTHER]
    return {"c": class_ids, "d": _encode_grey(values[indices.reshape(mask.shape)].astype(np.uint8))}


def encode_cams(maps: np.ndarray, class_ids: np.ndarray, scores: np.ndarray | None,
                covers: tuple[float, float]) -> dict[str, Any]:
    """Return CAMs (K, h, w) in [0, 1] as {"c": class ids, "s": scores, "d": PNGs, "k": `covers`}, highest CAM first.

    `covers` are the height and width that the maps cover, as shares of those of the image. Only the MAX_CAMS highest
    classes are encoded, without the background; "more" is the number of the others.
    """
    foreground = np.flatnonzero(class_ids > 0)
    peaks = maps[foreground].reshape(len(foreground), -1).max(axis=1, initial=0)
    order = foreground[np.argsort(-peaks, kind="stable")]
    rows = order[:MAX_CAMS]
    encoded: dict[str, Any] = {
        "c": class_ids[rows].tolist(),
        "s": [None if scores is None or not np.isfinite(scores[row]) else round(float(scores[row]), 3) for row in rows],
        "d": [_encode_grey(np.rint(np.clip(maps[row], 0, 1) * 255).astype(np.uint8)) for row in rows],
        "k": [round(share, 4) for share in covers]}
    return {**encoded, "more": len(order) - len(rows)} if len(order) > len(rows) else encoded


def _encode_grey(values: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
