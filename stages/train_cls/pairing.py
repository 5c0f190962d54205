"""Which single-label image is pasted into a multi-label one: the co-occurrence oriented resampling of CSD.

Yang et al., "Cross-domain Semantic Decoupling for Weakly-Supervised Semantic Segmentation" (BMVC 2023), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

Image = TypeVar("Image")


class Sources(Generic[Image]):
    """The single-label images of each class id in 1..C, and how one of them is drawn."""

    def __init__(self, of_class: Mapping[int, Sequence[Image]], n_classes: int, resampling: str,
                 probability: np.ndarray | None = None) -> None:
        """Take the images by class, and for `resampling` "cooc" P (C, C), whose row r is class id r + 1.

        "off" draws every image alike (CSD's plain copy-paste), "classes" every class that has one.
        """
        self.of_class, self.resampling, self.probability = of_class, resampling, probability
        self.counts = np.array([len(of_class.get(class_id, ())) for class_id in range(1, n_classes + 1)])

    def weights(self, class_ids: Sequence[int]) -> np.ndarray:
        """Return the probability (C,) of each class as the source for an image with `class_ids`.

        By co-occurrence it is the sum of the rows of P of these classes (the paper's P_j), over those classes that
        have a single-label image. All zeros where none of these can be drawn.
        """
        if self.resampling == "cooc" and self.probability is not None:
            rows = self.probability[np.asarray(class_ids, dtype=np.int64) - 1]
            wanted = rows.sum(axis=0) * (self.counts > 0)
        else:
            wanted = (self.counts if self.resampling == "off" else self.counts > 0).astype(np.float64)
        total = wanted.sum()
        return wanted / total if total else wanted

    def draw(self, class_ids: Sequence[int], rng: np.random.Generator) -> tuple[int, Image]:
        """Return (class id, image): a class by `weights`, then any of its images alike."""
        class_id = int(rng.choice(len(self.counts), p=self.weights(class_ids))) + 1
        images = self.of_class[class_id]
        return class_id, images[int(rng.integers(len(images)))]
