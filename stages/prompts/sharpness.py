"""Compute the sharpness of a prompt template: how unevenly it scores the classes of an image.

Lin et al., CLIP is Also an Efficient Segmenter (CVPR 2023), eq. 5: the variance of the scores of the k >= 1 classes of
an image, summed over the images, divided by the sum of the means of these scores. Lower is better for segmentation.

The equation does not say which variance. With k >= 1 only the population variance is defined (the sample variance is
0/0 for k = 1): an image with one class adds nothing to the numerator and its score to the denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compute_template_scores(embedding: Tensor, classes: Tensor, background: Tensor, targets: Tensor,
                            logit_scale: float, compete: str) -> Tensor:
    """Return the softmax scores (T, K) of an image's K classes under T templates.

    `embedding` (E,) is that of the image, `classes` (T, C, E) and `background` (T, M, E) are unit vectors, and
    `targets` (K,) the positions of the image's classes. With `compete` "present" only these classes compete, with the
    background. The softmax is in float64, in which no score underflows to 0 at CLIP's scale of 100.
    """
    competing = classes if compete == "all" else classes[:, targets]
    rows = targets if compete == "all" else torch.arange(len(targets), device=targets.device)
    logits = logit_scale * torch.cat([competing, background], dim=1) @ (embedding / embedding.norm())
    return logits.double().softmax(dim=1)[:, rows]


class Sharpness:
    """Sharpness of all templates (eq. 5), accumulated over images."""

    def __init__(self, num_templates: int) -> None:
        self.variance = torch.zeros(num_templates, dtype=torch.float64)
        self.mean = torch.zeros(num_templates, dtype=torch.float64)
        self.num_images = 0

    def add(self, scores: Tensor) -> None:
        """Add the scores (T, K) of an image, K >= 1. Raises ValueError for K = 0, which has no mean."""
        if not scores.shape[1]:
            raise ValueError("an image without a class has no sharpness")
        scores = scores.double().cpu()
        self.variance += scores.var(dim=1, correction=0)
        self.mean += scores.mean(dim=1)
        self.num_images += 1

    def compute_values(self) -> list[float]:
        """Return the sharpness of each template; infinite if it scores every class of every image 0."""
        ratio = self.variance / torch.where(self.mean > 0, self.mean, torch.ones_like(self.mean))
        return torch.where(self.mean > 0, ratio, torch.inf).tolist()
