"""Labels of pairs, from class activation maps.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (PSA, CVPR 2018), section 3.2.1;
Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (IRN, CVPR 2019),
section 4.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stages.kernels.background import Background, with_background
from stages.kernels.dense_crf import PRESETS, dense_crf, unary_from_labels, unary_from_scores
from stages.kernels.pairs import pair_offsets, partners
from stages.kernels.resample import cell_means

UNDECIDED = 255
_SMALLEST = 1e-5


def scores_at(image: np.ndarray, maps: np.ndarray, alpha: float, cell: int) -> np.ndarray:
    """Return the CRF's posteriors (K+1, h, w) of maps (K, H, W), the means over cells of `cell` pixels.

    `image` is (H, W, 3) uint8; the background is (1 - max map)^alpha; PSA's kernels.
    """
    unary = unary_from_scores(with_background(maps, Background("power", (alpha,))))
    return cell_means(dense_crf(image, unary, PRESETS["psa"]), cell)


def confident_areas(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the label (h, w) uint8 of scores (K+1, h, w) at a low and at a high alpha: a row's number, or 255.

    A class is sure where it wins against the generous background of the low alpha, the background where it wins even
    at the high one (which decides where both are so), and 255 is all else, also cells without any score. K stays
    below 255.
    """
    label = low.argmax(0).astype(np.uint8)
    label[label == 0] = UNDECIDED
    label[high.argmax(0) == 0] = 0
    label[np.maximum(low.max(0), high.max(0)) < _SMALLEST] = UNDECIDED
    return label


def label_at(image: np.ndarray, maps: np.ndarray, threshold: float, confidence: float) -> np.ndarray:
    """Return the label (H, W) uint8 of maps (K, H, W) against a constant background, fitted to the image by a CRF.

    `image` is (H, W, 3) uint8. The CRF gets the strongest row as a label that is right with probability `confidence`
    (IRN's released code; IRN's kernels). 0 is the background, else the number of a map from 1. K stays below 255.
    """
    rows = with_background(maps, Background("constant", (threshold,)))
    unary = unary_from_labels(rows.argmax(0), len(rows), confidence)
    return dense_crf(image, unary, PRESETS["irn"]).argmax(0).astype(np.uint8)


def agreed_areas(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the label (H, W) uint8 of the labels (H, W) at a high and at a low threshold.

    The class of the high one; 0 where both say background; 255 where only the high one does.
    """
    label = high.copy()
    label[(high == 0) & (low != 0)] = UNDECIDED
    return label


def pair_labels(label: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return three masks (B, P, h', w') of labels (B, h, w): pairs of background, of one class, and of two labels.

    Pairs with an undecided cell are in none of them.
    """
    source = partners(label, (0, 0), radius)[:, None]
    others = label.new_empty((len(label), len(pair_offsets(radius)), *source.shape[-2:]))
    for place, offset in enumerate(pair_offsets(radius)):
        others[:, place] = partners(label, offset, radius)
    decided = (source != UNDECIDED) & (others != UNDECIDED)
    same = (source == others) & decided
    return same & (source == 0), same & (source != 0), decided & ~same
