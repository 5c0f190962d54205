"""Labels and maps of sub-categories against those of SC-CAM's released code."""

from __future__ import annotations

import numpy as np
import torch

from stages.cams.cnn import merged
from stages.kernels.cam_merge import merge_scales
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


def test_maps_of_all_subcategories_of_a_class(reference):
    """Scales are summed, then the largest of a class's maps, over their joint maximum: of the tagged classes alone."""
    values = reference("cam-methods/sccam_subcategories")
    maps, count = torch.from_numpy(values["cam_list"]).float()[:, None], int(values["cam_k"])
    size = tuple(values["cam_merged"].shape[-2:])
    n_classes = len(values["cam_label"])
    present = np.flatnonzero(values["cam_label"]) + 1
    for class_ids in (present, np.arange(1, n_classes + 1)):
        cam, _ = merged(list(maps), 0, class_ids, size, scales=[1.0] * len(maps), flip=False, grid_stride=1, stride=1,
                        alignment="cells", n_subcategories=[count] * n_classes)
        wanted = values["cam_sub_norm"].reshape(n_classes, count, *size).max(1)[class_ids - 1]
        np.testing.assert_allclose(cam, wanted, atol=5e-4)  # float16
        if class_ids is present:
            np.testing.assert_allclose(cam, values["cam_merged"][class_ids - 1], atol=5e-4)
    kernel, _ = merge_scales(list(maps[:, 0]), size, scales=[1.0] * len(maps), grid_stride=1, stride=1,
                             alignment="cells", members=[count] * n_classes)
    np.testing.assert_allclose(kernel, values["cam_sub_norm"].reshape(n_classes, count, *size).max(1), rtol=1e-5)
