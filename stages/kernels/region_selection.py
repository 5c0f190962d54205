"""Which regions of SAM belong to the classes of a pseudo mask: the rule of SEPL.

Chen et al., "Segment Anything Model (SAM) Enhanced Pseudo Labels for Weakly Supervised Semantic Segmentation" (2023),
as in its released code. A region that lies mostly in a class belongs to it, and so does one that covers most of it;
what lies in other regions is taken from the class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stages.kernels.region_vote import count_pairs, look_up_pairs, number_ids

_MIN_SHARE = 0.5  # of a region that lies in a class; more than that is needed
_MIN_COVER = 0.85  # of a class that lies in a region


class Regions(NamedTuple):
    """Regions that may overlap, made of pieces that do not.

    `pieces` (H, W) is the piece 0..num_pieces-1 of each pixel. The region `region_index[i]` of 0..num_regions-1
    contains the piece `piece_index[i]`.
    """

    pieces: np.ndarray
    num_pieces: int
    region_index: np.ndarray
    piece_index: np.ndarray
    num_regions: int


def convert_masks(masks: np.ndarray) -> Regions:
    """Return the regions whose pixels are True in `masks` (M, H, W) bool. A piece is in the same masks everywhere."""
    num_masks, height, width = masks.shape
    packed = np.packbits(masks.reshape(num_masks, height * width), axis=0)
    distinct, pieces = np.unique(packed, axis=1, return_inverse=True)
    is_inside = np.unpackbits(distinct, axis=0, count=num_masks).astype(bool)
    region_index, piece_index = np.nonzero(is_inside)
    return Regions(pieces.reshape(height, width), distinct.shape[1], region_index, piece_index, num_masks)


def convert_labels(regions: np.ndarray, *, skip: int) -> Regions:
    """Return the regions of a label map (H, W); the one whose label is `skip` is a piece of no region."""
    region_ids, pieces = number_ids(regions)
    piece_index = np.flatnonzero(region_ids != skip)
    return Regions(pieces, len(region_ids), piece_index, piece_index, len(region_ids))


def select_regions(labels: np.ndarray, regions: Regions, *, ignore: int = 255) -> np.ndarray:
    """Return the labels (H, W), each class replaced by the regions that belong to it; 0 is the background.

    Classes choose by rising label, and later classes overwrite earlier ones. A region that no earlier class has chosen
    belongs to a class if more than half of it lies in the class, or if it covers 85 % or more of the class. Pixels of
    the class in other such regions become background; those in no region, or only in those of earlier classes, keep
    their class. Pixels with the label `ignore` become background.
    """
    label_ids, label_positions = number_ids(labels)
    counts = count_pairs(regions.pieces, label_positions, (regions.num_pieces, len(label_ids)))
    region_index, piece_index = regions.region_index, regions.piece_index
    areas = np.bincount(region_index, counts.sum(axis=1)[piece_index], regions.num_regions)
    is_free = np.ones(regions.num_regions, bool)
    table = np.zeros(counts.shape, labels.dtype)  # the new label of each pair of a piece and a label
    for column in np.flatnonzero((label_ids > 0) & (label_ids != ignore)):
        overlaps = np.bincount(region_index, counts[piece_index, column], regions.num_regions)
        share_of_class = overlaps / counts[:, column].sum()
        is_chosen = is_free & ((overlaps > _MIN_SHARE * areas) | (share_of_class >= _MIN_COVER))
        is_free &= ~is_chosen
        is_taken = np.zeros(regions.num_pieces, bool)
        is_taken[piece_index[is_free[region_index]]] = True
        table[~is_taken, column] = label_ids[column]
        table[piece_index[is_chosen[region_index]]] = label_ids[column]
    return look_up_pairs(table, regions.pieces, label_positions)
