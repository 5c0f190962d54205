"""Sharpness of a prompt: how unevenly it scores the classes of an image.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), eq. 5: the sum over the images of the variance of the
scores of their k >= 1 classes, divided by the sum of the means of these scores. Lower is better for segmentation.

The equation leaves the kind of variance open. With k >= 1 only the population's is defined (the sample's would be 0/0
for k = 1): an image with one class adds nothing to the numerator, and its score to the denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_scores(embedding: Tensor, classes: Tensor, background: Tensor, targets: Tensor, scale: float,
                 compete: str) -> Tensor:
    """Return the softmax (T, K) of an image's K classes under T templates.

    `embedding` (E,) of the image; `classes` (T, C, E) and `background` (T, M, E) unit vectors; `targets` (K,)
    positions among the classes. With `compete` "present" only those compete, with the background. The softmax is in
    float64, in which no score that CLIP's scale of 100 allows becomes 0.
    """
    among = classes if compete == "all" else classes[:, targets]
    rows = targets if compete == "all" else torch.arange(len(targets), device=targets.device)
    logits = scale * torch.cat([among, background], dim=1) @ (embedding / embedding.norm())
    return logits.double().softmax(dim=1)[:, rows]


class Sharpness:
    """Adds up eq. 5 over the images, for all templates at once."""

    def __init__(self, n_templates: int) -> None:
        self.variance = torch.zeros(n_templates, dtype=torch.float64)
        self.mean = torch.zeros(n_templates, dtype=torch.float64)
        self.images = 0

    def add(self, scores: Tensor) -> None:
        """Count an image's scores (T, K) in, K >= 1. Raises ValueError for K = 0, which has no mean."""
        if not scores.shape[1]:
            raise ValueError("an image without a class has no sharpness")
        scores = scores.double().cpu()
        self.variance += scores.var(dim=1, correction=0)
        self.mean += scores.mean(dim=1)
        self.images += 1

    def values(self) -> list[float]:
        """Return the sharpness of each template; infinite for one that scores every class of every image 0."""
        ratio = self.variance / torch.where(self.mean > 0, self.mean, torch.ones_like(self.mean))
        return torch.where(self.mean > 0, ratio, torch.inf).tolist()
