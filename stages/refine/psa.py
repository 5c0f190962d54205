"""PSA's refinement: maps that walk at random between cells that belong together.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (CVPR 2018), section 3.3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.kernels.background import Background, with_background
from stages.kernels.pairs import pair_distances, pair_offsets, spread_over_map
from stages.kernels.random_walk import Transition
from stages.kernels.resample import cell_means


def cells_of(size: tuple[int, int], cell: int) -> tuple[int, int]:
    """Return (h, w): how many cells of `cell` pixels an image of `size` takes, those cut by the border included."""
    return -(-size[0] // cell), -(-size[1] // cell)


def padded(view: np.ndarray, cell: int) -> np.ndarray:
    """Return a normalised image (3, H, W) with zeros at the right and the bottom up to whole cells."""
    height, width = cells_of(view.shape[1:], cell)
    return np.pad(view, ((0, 0), (0, height * cell - view.shape[1]), (0, width * cell - view.shape[2])))


def walked(features: Tensor, rows: np.ndarray, background: Background | None, *, cell: int, radius: int, beta: float,
           steps: int) -> np.ndarray:
    """Return maps (L, h, w) float32 in [0, 1] after `steps` of a random walk, divided by their joint maximum.

    `features` (D, h, w) are those of AffinityNet for the padded image, `rows` (K, H, W) the maps in [0, 1]; with a
    `background` it becomes row 0 and walks along (PSA's (1 - max map)^16), so that rows compete where they end.
    """
    if background is not None:
        rows = with_background(rows, background)
    means = cell_means(rows, cell)
    maps = transition(features, radius, beta).walk(means, steps)
    return maps / max(float(maps.max(initial=0)), 1e-12)


def transition(features: Tensor, radius: int, beta: float) -> Transition:
    """Return the transitions between the cells of features (D, h, w): affinities exp(-mean |f_i - f_j|) to `beta`."""
    affinity = torch.exp(-pair_distances(features[None], radius))[0].cpu().numpy()
    return Transition(spread_over_map(affinity, tuple(features.shape[1:]), radius), pair_offsets(radius), beta)
