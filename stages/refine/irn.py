"""IRN's refinement: CAMs spread by a random walk that stops at the boundaries predicted by a network.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019), section
5, for semantic segmentation: the displacements, which separate objects of one class, are not used (IRN's released
code).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stages.kernels.boundary_paths import compute_all_path_affinities
from stages.kernels.cell_pairs import compute_pair_offsets
from stages.kernels.random_walk import TransitionMatrix


def compute_boundary(logits: Tensor, mirrored: Tensor) -> Tensor:
    """Return the boundary (B, h, w) in [0, 1] from the logits (B, h, w) of images and of their mirrored images.

    The mirrored logits are flipped back and averaged with the others before the sigmoid (IRN's released code).
    """
    return ((logits + mirrored.flip(-1)) / 2).sigmoid()


def build_transition(boundary: Tensor, radius: int, beta: float) -> TransitionMatrix:
    """Build the transition matrix of a boundary map (h, w): an affinity is 1 - the maximum on the path.

    Pairs are closer than `radius`, also along the border of the map. Computed in float64, because cells enclosed by
    boundaries keep nearly all their score at each step, and 256 rounding errors of float32 add up to 2e-4 of it.
    """
    affinity = compute_all_path_affinities(boundary.double(), radius).cpu().numpy()
    return TransitionMatrix(affinity, compute_pair_offsets(radius), beta)


def walk_maps(boundary: Tensor, cams: np.ndarray, *, radius: int, beta: float, steps: int) -> np.ndarray:
    """Return CAMs (K, h, w) float32 in [0, 1] after `steps` of a random walk, divided by their joint maximum.

    `boundary` is (h, w) and `cams` (K, h, w), both in [0, 1]. Scores on a boundary are removed before the walk. The
    released code divides by the maximum after upsampling by 4, which is a little lower.
    """
    maps = build_transition(boundary, radius, beta).walk(cams * (1 - boundary.cpu().numpy()), steps)
    return (maps / max(float(maps.max(initial=0)), 1e-12)).astype(np.float32)
