"""IRN's refinement: maps that walk at random up to the boundaries that a network sees.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019), section
5, for classes as a whole: what separates objects of one class, the displacements, is not used (IRN's released code).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stages.kernels.pairs import pair_offsets
from stages.kernels.paths import affinities_between_all
from stages.kernels.random_walk import Transition


def boundary_of(logits: Tensor, mirrored: Tensor) -> Tensor:
    """Return the boundary (B, h, w) in [0, 1] of logits (B, h, w) of images and those of their mirror images.

    Mirrored back, they are averaged before the sigmoid (IRN's released code).
    """
    return ((logits + mirrored.flip(-1)) / 2).sigmoid()


def transition(boundary: Tensor, radius: int, beta: float) -> Transition:
    """Return the transitions between the cells of a boundary (h, w): affinities 1 - its maximum on the path.

    Pairs lie closer than `radius`, also along the border of the map. In float64: cells that boundaries enclose keep
    nearly all their score at each step, and 256 times the rounding of float32 comes to 2e-4 of it.
    """
    affinity = affinities_between_all(boundary.double(), radius).cpu().numpy()
    return Transition(affinity, pair_offsets(radius), beta)


def walked(boundary: Tensor, rows: np.ndarray, *, radius: int, beta: float, steps: int) -> np.ndarray:
    """Return maps (K, h, w) float32 in [0, 1] after `steps` of a random walk, divided by their joint maximum.

    `boundary` is (h, w) and `rows` (K, h, w), both in [0, 1]. What lies on a boundary does not walk. The released code
    divides by the maximum after enlarging by 4, which lies a little lower.
    """
    maps = transition(boundary, radius, beta).walk(rows * (1 - boundary.cpu().numpy()), steps)
    return (maps / max(float(maps.max(initial=0)), 1e-12)).astype(np.float32)
