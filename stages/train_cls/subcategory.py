"""Sub-category Exploration and Teaching: the classifier learns the clusters of its images beside their classes.

Chang et al. (CVPR 2020), whose clusters are of the classifier's own features; with a vision transformer's features it
is Sub-category Teaching ("On the use of mixed-sample augmentation and sub-categories", section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F


def loss(net: nn.Module, batch: Mapping[str, Tensor], config: Any) -> dict[str, Any]:
    """Return {"loss", "classification", "subcategories", "predicted"}: the classes' plus a weight times the clusters'.
    """
    logits, inner = net.both(batch["image"])
    classes = F.multilabel_soft_margin_loss(logits.float(), batch["labels"].float())
    clusters = F.multilabel_soft_margin_loss(inner.float(), batch["subcategories"].float())
    return {"loss": classes + config.subcategory_weight * clusters, "classification": classes,
            "subcategories": clusters, "predicted": (logits, batch["labels"])}


def subcategory_labels(assignment: np.ndarray, n_clusters: np.ndarray) -> np.ndarray:
    """Return labels (N, S) uint8 of all clusters of all classes in turn, S their number.

    `assignment` (N, C+1) is the cluster of each image in each class, -1 where it lacks the class; `n_clusters` (C+1,).
    """
    first = np.concatenate([[0], np.cumsum(n_clusters)])
    labels = np.zeros((len(assignment), int(first[-1])), dtype=np.uint8)
    images, classes = np.nonzero(assignment >= 0)
    labels[images, first[classes] + assignment[images, classes]] = 1
    return labels
