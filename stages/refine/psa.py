"""PSA's refinement: CAMs spread by a random walk between cells with a high affinity.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (CVPR 2018), section 3.3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.kernels.background import Background, add_background_scores
from stages.kernels.cell_pairs import compute_pair_distances, compute_pair_offsets, scatter_pairs_to_map
from stages.kernels.random_walk import TransitionMatrix
from stages.kernels.resample import average_cells


def count_cells(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """Return the number (h, w) of cells of `cell` pixels in an image of `size`, including those cut by the border."""
    return -(-size[0] // cell), -(-size[1] // cell)


def pad_to_cells(view: np.ndarray, cell: int) -> np.ndarray:
    """Pad a normalised image (3, H, W) with zeros at the right and the bottom to whole cells."""
    height, width = count_cells(view.shape[1:], cell)
    return np.pad(view, ((0, 0), (0, height * cell - view.shape[1]), (0, width * cell - view.shape[2])))


def walk_maps(features: Tensor, scores: np.ndarray, background: Background | None, *, cell: int, radius: int,
              beta: float, steps: int) -> np.ndarray:
    """Return maps (L, h, w) float32 in [0, 1] after `steps` of a random walk, divided by their joint maximum.

    `features` (D, h, w) are those of AffinityNet for the padded image, `scores` (K, H, W) the CAMs in [0, 1]. With a
    `background` rule (PSA's is (1 - max map)^16) the background becomes row 0 and takes part in the walk, so that all
    rows of the result can compete.
    """
    if background is not None:
        scores = add_background_scores(scores, background)
    means = average_cells(scores, cell)
    maps = build_transition(features, radius, beta).walk(means, steps)
    return maps / max(float(maps.max(initial=0)), 1e-12)


def build_transition(features: Tensor, radius: int, beta: float) -> TransitionMatrix:
    """Build the transition matrix of features (D, h, w): affinities exp(-mean |f_i - f_j|) to the power `beta`."""
    affinity = torch.exp(-compute_pair_distances(features[None], radius))[0].cpu().numpy()
    affinity = scatter_pairs_to_map(affinity, tuple(features.shape[1:]), radius)
    return TransitionMatrix(affinity, compute_pair_offsets(radius), beta)
