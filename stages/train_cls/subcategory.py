"""Train a classifier on the clusters of its images as well as on their classes (Sub-category Exploration, Teaching).

Chang et al. (CVPR 2020) cluster the classifier's own features; with the features of a vision transformer it is
Sub-category Teaching ("On the use of mixed-sample augmentation and sub-categories", section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return {"loss", "classification", "subcategories", "predicted"}.

    "loss" is the loss of the classes plus a weight times that of the sub-categories.
    """
    logits, subcategory_logits = net.forward_both_heads(batch["image"])
    classes = F.multilabel_soft_margin_loss(logits.float(), batch["labels"].float())
    clusters = F.multilabel_soft_margin_loss(subcategory_logits.float(), batch["subcategories"].float())
    return {"loss": classes + config.subcategory_weight * clusters, "classification": classes,
            "subcategories": clusters, "predicted": (logits, batch["labels"])}


def build_subcategory_labels(assignment: np.ndarray, n_clusters: np.ndarray) -> np.ndarray:
    """Return labels (N, S) uint8 of the S clusters of all classes, in order of the classes.

    `assignment` (N, C+1) is the cluster of each image in each class, -1 where the image lacks the class; `n_clusters`
    (C+1,) is the number of clusters of each class.
    """
    first_columns = np.concatenate([[0], np.cumsum(n_clusters)])
    labels = np.zeros((len(assignment), int(first_columns[-1])), dtype=np.uint8)
    images, classes = np.nonzero(assignment >= 0)
    labels[images, first_columns[classes] + assignment[images, classes]] = 1
    return labels
