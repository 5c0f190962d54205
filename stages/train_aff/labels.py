"""Pair labels for affinity networks, from class activation maps (CAMs).

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (PSA, CVPR 2018), section 3.2.1;
Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN, CVPR 2019),
section 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from stages.kernels.background import Background, add_background_scores
from stages.kernels.cell_pairs import compute_pair_offsets, slice_partners
from stages.kernels.dense_crf import CRF_PRESETS, dense_crf, unary_from_labels, unary_from_scores
from stages.kernels.resample import average_cells

IGNORE_LABEL = 255
# Posteriors (L, H, W) of an image and its unary energies; `dense_crf` with an engine and a device.
Crf = Callable[..., np.ndarray]
_MIN_SCORE = 1e-5


def compute_crf_scores(image: np.ndarray, maps: np.ndarray, alpha: float, cell: int,
                       crf: Crf = dense_crf) -> np.ndarray:
    """Return the CRF posteriors (K+1, h, w) of CAMs `maps` (K, H, W), averaged over cells of `cell` pixels.

    `image` is (H, W, 3) uint8. The background score is (1 - max map)^alpha, and the CRF has PSA's kernels.
    """
    unary = unary_from_scores(add_background_scores(maps, Background("power", (alpha,))))
    return average_cells(crf(image, unary, CRF_PRESETS["psa"]), cell)


def select_confident_labels(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the labels (h, w) uint8 of scores (K+1, h, w) at a low and at a high alpha: a row index, or 255.

    A cell is labelled with a class if the class wins against the high background score of the low alpha, and as
    background if the background wins even with the low score of the high alpha (which decides if both hold). All other
    cells are 255, and so are cells without any score. K must be below 255.
    """
    label = low.argmax(0).astype(np.uint8)
    label[label == 0] = IGNORE_LABEL
    label[high.argmax(0) == 0] = 0
    label[np.maximum(low.max(0), high.max(0)) < _MIN_SCORE] = IGNORE_LABEL
    return label


def compute_crf_label(image: np.ndarray, maps: np.ndarray, threshold: float, confidence: float,
                      crf: Crf = dense_crf) -> np.ndarray:
    """Return the labels (H, W) uint8 of CAMs `maps` (K, H, W) with a constant background score, refined by a CRF.

    `image` is (H, W, 3) uint8. The CRF gets the best row of each pixel as a label that is correct with probability
    `confidence` (IRN's released code, with IRN's kernels). 0 is the background, k is the k-th map. K must be below
    255.
    """
    scores = add_background_scores(maps, Background("constant", (threshold,)))
    unary = unary_from_labels(scores.argmax(0), len(scores), confidence)
    return crf(image, unary, CRF_PRESETS["irn"]).argmax(0).astype(np.uint8)


def merge_agreeing_labels(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Merge the labels (H, W) at a high and at a low threshold into one label (H, W) uint8.

    It is the class at the high threshold; 0 where both are background; 255 where only the high one is background.
    """
    label = high.copy()
    label[(high == 0) & (low != 0)] = IGNORE_LABEL
    return label


def build_pair_masks(label: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return three masks (B, P, h', w') of labels (B, h, w): background pairs, same-class pairs, different labels.

    Pairs with an ignored cell are in none of them.
    """
    source = slice_partners(label, (0, 0), radius)[:, None]
    partner = label.new_empty((len(label), len(compute_pair_offsets(radius)), *source.shape[-2:]))
    for index, offset in enumerate(compute_pair_offsets(radius)):
        partner[:, index] = slice_partners(label, offset, radius)
    is_decided = (source != IGNORE_LABEL) & (partner != IGNORE_LABEL)
    is_same = (source == partner) & is_decided
    return is_same & (source == 0), is_same & (source != 0), is_decided & ~is_same
