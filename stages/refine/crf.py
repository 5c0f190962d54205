"""Dense CRF on the background and the classes present: K+1 labels, whatever the data set's size.

Kraehenbuehl and Koltun (NIPS 2011), with the kernels of IRN, PSA, CLIP-ES and DeepLab.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from stages.kernels.background import Background, with_background
from stages.kernels.dense_crf import (
    PRESETS,
    DenseCrf,
    dense_crf,
    image_as_released,
    unary_from_labels,
    unary_from_scores,
)
from stages.refine.config import CrfConfig


def kernels_of(config: CrfConfig) -> DenseCrf:
    """Return the preset's CRF with the values that the settings override."""
    given = {field.name: getattr(config, field.name) for field in fields(DenseCrf)}
    return replace(PRESETS[config.preset], **{name: value for name, value in given.items() if value is not None})


def takes_labels(config: CrfConfig) -> bool:
    """Say whether the unary is made of hard labels (IRN) or of scores (the others)."""
    return config.unary == "labels" or (config.unary == "auto" and config.preset == "irn")


def refined(image: np.ndarray, rows: np.ndarray, class_ids: np.ndarray, background: Background | None,
            config: CrfConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return (posteriors (L, H, W) uint8 with 255 = 1.0, class_ids (L,)) of maps (K, H, W) in [0, 1].

    `image` is (H, W, 3) uint8. With a `background` rule it becomes row 0; None: the rows compete as they are.
    """
    if background is not None:
        rows, class_ids = with_background(rows, background), np.concatenate([[0], class_ids]).astype(np.uint16)
    if takes_labels(config):
        unary = unary_from_labels(rows.argmax(axis=0), len(rows), config.label_confidence)
    else:
        unary = unary_from_scores(rows)
    posteriors = dense_crf(image_as_released(image) if config.as_released else image, unary, kernels_of(config))
    return np.round(posteriors * 255).clip(0, 255).astype(np.uint8), class_ids
