"""Sharpness of a prompt: how unevenly it scores the classes of an image.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), eq. 5: the sum over the images of the variance of their
classes' scores, divided by the sum of their means. Lower is better for segmentation.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_scores(embedding: Tensor, classes: Tensor, background: Tensor, targets: Tensor, scale: float,
                 compete: str) -> Tensor:
    """Return the softmax (T, K) of an image's K classes under T templates.

    `embedding` (E,) of the image; `classes` (T, C, E) and `background` (T, M, E) unit vectors; `targets` (K,)
    positions among the classes. With `compete` "present" only those compete, with the background.
    """
    among = classes if compete == "all" else classes[:, targets]
    rows = targets if compete == "all" else torch.arange(len(targets), device=targets.device)
    logits = scale * torch.cat([among, background], dim=1) @ (embedding / embedding.norm())
    return logits.softmax(dim=1)[:, rows]


class Sharpness:
    """Adds up eq. 5 over the images, for all templates at once."""

    def __init__(self, templates: int) -> None:
        self.variance = torch.zeros(templates, dtype=torch.float64)
        self.mean = torch.zeros(templates, dtype=torch.float64)
        self.images = 0

    def add(self, scores: Tensor) -> None:
        """Count an image's scores (T, K) in; the variance is the population's."""
        scores = scores.double().cpu()
        self.variance += scores.var(dim=1, correction=0)
        self.mean += scores.mean(dim=1)
        self.images += 1

    def values(self) -> list[float]:
        """Return the sharpness of each template."""
        return (self.variance / self.mean).tolist()
