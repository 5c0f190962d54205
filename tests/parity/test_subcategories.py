"""Labels of sub-categories against those of SC-CAM's released code."""

from __future__ import annotations

import numpy as np

from stages.train_cls.subcategory import subcategory_labels


def test_labels(reference):
    values = reference("cam-methods/sccam_subcategories")
    labels, count = values["labels"], int(values["k"])
    assignment = np.full((len(labels), labels.shape[1] + 1), -1, dtype=np.int32)
    # Memberships are listed class by class, and in each class in the order of the images.
    images = np.concatenate([np.flatnonzero(labels[:, place]) for place in range(labels.shape[1])])
    assignment[images, values["entry_class"] + 1] = values["entry_cluster"]
    n_clusters = np.full(labels.shape[1] + 1, count)
    n_clusters[0] = 0
    found = subcategory_labels(assignment, n_clusters)
    row_of = dict(zip(values["merged_names"].tolist(), images.tolist(), strict=True))
    rows = [row_of[name] for name in values["out_names"].tolist()]
    assert sorted(rows) == list(range(len(labels)))
    np.testing.assert_array_equal(found[rows], values["sub_labels"])
