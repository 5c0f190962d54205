"""Labels and CAMs of sub-categories against those of SC-CAM's released code."""

from __future__ import annotations

import numpy as np
import torch

from stages.cams.cnn import merge_class_maps
from stages.kernels.cam_merge import merge_scales
from stages.train_cls.subcategory import build_subcategory_labels


def test_labels_match(reference):
    values = reference("cam-methods/sccam_subcategories")
    labels, num_subcategories = values["labels"], int(values["k"])
    assignment = np.full((len(labels), labels.shape[1] + 1), -1, dtype=np.int32)
    # The values list members class by class, and within a class in the order of the images.
    images = np.concatenate([np.flatnonzero(labels[:, index]) for index in range(labels.shape[1])])
    assignment[images, values["entry_class"] + 1] = values["entry_cluster"]
    n_clusters = np.full(labels.shape[1] + 1, num_subcategories)
    n_clusters[0] = 0
    actual = build_subcategory_labels(assignment, n_clusters)
    row_by_name = dict(zip(values["merged_names"].tolist(), images.tolist(), strict=True))
    rows = [row_by_name[name] for name in values["out_names"].tolist()]
    assert sorted(rows) == list(range(len(labels)))
    np.testing.assert_array_equal(actual[rows], values["sub_labels"])


def test_cams_merged_over_subcategories_match(reference):
    """Maps are summed over scales; a class gets the maximum over its maps, divided by their joint maximum."""
    values = reference("cam-methods/sccam_subcategories")
    maps, num_subcategories = torch.from_numpy(values["cam_list"]).float()[:, None], int(values["cam_k"])
    size = tuple(values["cam_merged"].shape[-2:])
    num_classes = len(values["cam_label"])
    tagged_ids = np.flatnonzero(values["cam_label"]) + 1
    for class_ids in (tagged_ids, np.arange(1, num_classes + 1)):
        cam, _ = merge_class_maps(list(maps), 0, class_ids, size, scales=[1.0] * len(maps), flip=False, grid_stride=1,
                                  stride=1, alignment="cells", n_subcategories=[num_subcategories] * num_classes)
        expected = values["cam_sub_norm"].reshape(num_classes, num_subcategories, *size).max(1)[class_ids - 1]
        np.testing.assert_allclose(cam, expected, atol=5e-4)  # float16
        if class_ids is tagged_ids:
            np.testing.assert_allclose(cam, values["cam_merged"][class_ids - 1], atol=5e-4)
    kernel, _ = merge_scales(list(maps[:, 0]), size, scales=[1.0] * len(maps), grid_stride=1, stride=1,
                             alignment="cells", maps_per_class=[num_subcategories] * num_classes)
    expected = values["cam_sub_norm"].reshape(num_classes, num_subcategories, *size).max(1)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)
