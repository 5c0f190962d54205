"""Counts per image: sums and scores of the sparse matrix, compared with those of dense counts."""

from __future__ import annotations

import numpy as np

from stages.eval import image_counts
from stages.eval.image_counts import ImageCounts, compute_image_mean_iou, iterate_image_iou, sum_counts
from stages.kernels.mean_iou import PixelCounts, iou_per_class, mean_iou


def test_sparse_counts_are_those_that_were_added(monkeypatch):
    monkeypatch.setattr(image_counts, "_IMAGES_AT_ONCE", 3)
    random = np.random.default_rng(0)
    dense = random.integers(1, 9, (7, 5, 3)) * random.integers(0, 2, (7, 5, 1))
    dense[..., 0] = dense[..., 1:].min(axis=-1)
    dense[4] = 0
    counts = ImageCounts(5)
    for image in dense:
        counts.add(PixelCounts(*image.T))
    matrix = counts.build_matrix()
    np.testing.assert_array_equal(matrix.toarray().reshape(7, 5, 3), dense)
    np.testing.assert_array_equal(np.stack(sum_counts(matrix), axis=1), dense.sum(axis=0))
    images = [PixelCounts(*image.T) for image in dense]
    np.testing.assert_array_equal(np.concatenate(list(iterate_image_iou(matrix))), [iou_per_class(i) for i in images])
    np.testing.assert_allclose(compute_image_mean_iou(matrix), [mean_iou(i) for i in images], rtol=1e-15)


def test_counts_beyond_32_bits():
    counts = ImageCounts(2)
    counts.add(PixelCounts(*np.array([[1 << 40, 0], [1 << 41, 0], [1 << 40, 0]])))
    assert sum_counts(counts.build_matrix()).truth.tolist() == [1 << 41, 0]


def test_without_images():
    assert compute_image_mean_iou(ImageCounts(3).build_matrix()).shape == (0,)
