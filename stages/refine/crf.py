"""Dense CRF over the background and the classes present in the image: K+1 labels, whatever the number of classes.

Kraehenbuehl and Koltun (NIPS 2011), with the kernels of IRN, PSA, CLIP-ES and DeepLab.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from stages.kernels.background import Background, add_background_scores
from stages.kernels.dense_crf import (
    CRF_PRESETS,
    DenseCrfSettings,
    convert_image_as_released,
    dense_crf_batch,
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
    return refine_batch_with_crf([image], [(scores, class_ids)], background, config, "numba", "cpu")[0]


def refine_batch_with_crf(images: Sequence[np.ndarray], maps: Sequence[tuple[np.ndarray, np.ndarray]],
                          background: Background | None, config: CrfConfig, engine: str,
                          device: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the results of `refine_with_crf` for each image and its (scores, class_ids), computed by `engine`."""
    if background is not None:
        maps = [(add_background_scores(scores, background), np.concatenate([[0], class_ids]).astype(np.uint16))
                for scores, class_ids in maps]
    if should_use_labels(config):
        unaries = [unary_from_labels(scores.argmax(axis=0), len(scores), config.label_confidence) for scores, _ in maps]
    else:
        unaries = [unary_from_scores(scores) for scores, _ in maps]
    crf_images = [convert_image_as_released(image) for image in images] if config.as_released else images
    batch = dense_crf_batch(crf_images, unaries, resolve_crf_settings(config), engine, device)
    return [(np.round(posteriors * 255).clip(0, 255).astype(np.uint8), class_ids)
            for posteriors, (_, class_ids) in zip(batch, maps, strict=True)]
