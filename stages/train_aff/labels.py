"""Labels of pairs, from class activation maps.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (PSA, CVPR 2018), section 3.2.1.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stages.kernels.background import Background, with_background
from stages.kernels.dense_crf import PRESETS, dense_crf, unary_from_scores
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
