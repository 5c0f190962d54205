"""The images that a network was trained on, as its description lists them: one key per image, sorted, as base64."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from stages.errors import BadData
from stages.shards import Run, build_image_keys

TRAINING_IMAGES = "training_images"


def describe_training_images(index: Run, ids: Collection[str]) -> dict[str, str]:
    """Return the entry of a network's description for the images `ids` of an index that it is trained on.

    Empty if an image has no checksum (`wsss index --tags-only`). 10,000 images take 107 kB.
    """
    selected = set(ids)
    records = index.read_image_records()
    if records is None:
        return {}
    records = records[[item_id in selected for item_id in index.ids]]
    keys = build_image_keys(records)
    if len(keys) < len(records) or not len(keys):
        return {}
    return {TRAINING_IMAGES: base64.b64encode(np.sort(keys).astype("<u8").tobytes()).decode()}


def read_training_images(description: Mapping[str, Any], where: str) -> np.ndarray | None:
    """Return the keys (n,) uint64 of the images that a network was trained on; None if they are not known.

    Raises BadData if they cannot be decoded.
    """
    text = description.get(TRAINING_IMAGES)
    if text is None:
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8")
    except (ValueError, TypeError):
        raise BadData("its list of training images is damaged", "Train the network again", where=where) from None
