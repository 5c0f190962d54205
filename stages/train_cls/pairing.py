"""Draw the single-label images to paste into multi-label ones: the co-occurrence oriented resampling of CSD.

Yang et al., "Cross-domain Semantic Decoupling for Weakly-Supervised Semantic Segmentation" (BMVC 2023), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

Image = TypeVar("Image")


class SingleLabelSampler(Generic[Image]):
    """Draw single-label images by class, for class ids 1..C."""

    def __init__(self, images_by_class: Mapping[int, Sequence[Image]], num_classes: int, resampling: str,
                 probability: np.ndarray | None = None) -> None:
        """Store the images by class and the `resampling`.

        "cooc" draws by `probability`, P (C, C), whose row r is class id r + 1; "off" uniformly over images (CSD's
        plain copy-paste); "classes" uniformly over the classes that have an image.
        """
        self.images_by_class, self.resampling, self.probability = images_by_class, resampling, probability
        self.image_counts = np.array([len(images_by_class.get(class_id, ())) for class_id in range(1, num_classes + 1)])

    def compute_class_probabilities(self, class_ids: Sequence[int]) -> np.ndarray:
        """Return the probability (C,) of each class as the source for an image with `class_ids`.

        With "cooc" it is the sum of the rows of P of these classes (the paper's P_j), normalised over the classes that
        have a single-label image. All zeros when none of these can be drawn.
        """
        if self.resampling == "cooc" and self.probability is not None:
            rows = self.probability[np.asarray(class_ids, dtype=np.int64) - 1]
            weights = rows.sum(axis=0) * (self.image_counts > 0)
        else:
            weights = (self.image_counts if self.resampling == "off" else self.image_counts > 0).astype(np.float64)
        total = weights.sum()
        return weights / total if total else weights

    def draw(self, class_ids: Sequence[int], rng: np.random.Generator) -> tuple[int, Image]:
        """Draw a class by `compute_class_probabilities`, then uniformly one of its images; return (class id, image)."""
        class_id = int(rng.choice(len(self.image_counts), p=self.compute_class_probabilities(class_ids))) + 1
        images = self.images_by_class[class_id]
        return class_id, images[int(rng.integers(len(images)))]
