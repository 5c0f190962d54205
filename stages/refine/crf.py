"""Dense CRF over the background and the classes present in the image: K+1 labels, whatever the number of classes.

Kraehenbuehl and Koltun (NIPS 2011), with the kernels of IRN, PSA, CLIP-ES and DeepLab.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from stages.kernels.background import Background, add_background_scores
from stages.kernels.dense_crf import (
    CRF_PRESETS,
    DenseCrfSettings,
    convert_image_as_released,
    dense_crf,
    unary_from_labels,
    unary_from_scores,
)
from stages.refine.config import CrfConfig


def resolve_crf_settings(config: CrfConfig) -> DenseCrfSettings:
    """Return the CRF settings of the preset, with the values that the user set replaced."""
    values = {field.name: getattr(config, field.name) for field in fields(DenseCrfSettings)}
    return replace(CRF_PRESETS[config.preset], **{name: value for name, value in values.items() if value is not None})


def should_use_labels(config: CrfConfig) -> bool:
    """Return whether the unary potentials come from hard labels (IRN) or from scores (the other presets)."""
    return config.unary == "labels" or (config.unary == "auto" and config.preset == "irn")


def refine_with_crf(image: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, background: Background | None,
                    config: CrfConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return (posteriors (L, H, W) uint8 with 255 = 1.0, class_ids (L,)) of CAMs `scores` (K, H, W) in [0, 1].

    `image` is (H, W, 3) uint8. With a `background` rule the background becomes row 0; with None the scores compete as
    they are.
    """
    if background is not None:
        scores = add_background_scores(scores, background)
        class_ids = np.concatenate([[0], class_ids]).astype(np.uint16)
    if should_use_labels(config):
        unary = unary_from_labels(scores.argmax(axis=0), len(scores), config.label_confidence)
    else:
        unary = unary_from_scores(scores)
    crf_image = convert_image_as_released(image) if config.as_released else image
    posteriors = dense_crf(crf_image, unary, resolve_crf_settings(config), config.engine)
    return np.round(posteriors * 255).clip(0, 255).astype(np.uint8), class_ids
