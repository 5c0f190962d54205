"""Mean IoU under three published rules against reference values."""

from __future__ import annotations

import re

import numpy as np

from stages.kernels.mean_iou import (
    confusion_matrix,
    count_pixels,
    frequency_weighted_iou,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from stages.kernels.threshold_sweep import ThresholdSweep


def group_images_by_case(values) -> dict[str, list[str]]:
    """Return the image numbers per case, from keys such as `few_classes_gt0`."""
    images_per_case: dict[str, list[str]] = {}
    for key in values:
        if match := re.fullmatch(r"(.+)_gt(\d+)", key):
            images_per_case.setdefault(match.group(1), []).append(match.group(2))
    assert images_per_case
    return images_per_case


def sum_confusion_matrices(values, case: str, images: list[str], num_classes: int) -> np.ndarray:
    return sum(confusion_matrix(values[f"{case}_gt{i}"], values[f"{case}_pred{i}"], num_classes) for i in images)


def test_scores_of_all_cases_match_under_all_rules(reference):
    values = reference("cam-methods/eval_miou")
    for case, images in group_images_by_case(values).items():
        num_classes = len(values[f"{case}_sccam_deeplab_iou"])
        matrix = sum_confusion_matrices(values, case, images, num_classes)
        # IRN's matrix ends at the highest class that occurs.
        irn = values[f"{case}_irn_confusion"]
        np.testing.assert_array_equal(matrix[: len(irn), : len(irn)], irn)
        assert matrix.sum() == irn.sum()
        np.testing.assert_allclose(iou_per_class(matrix)[: len(irn)], values[f"{case}_irn_iou"], rtol=1e-9)
        np.testing.assert_allclose(mean_iou(matrix), values[f"{case}_irn_miou"], rtol=1e-9)
        np.testing.assert_allclose(mean_iou(matrix, "truth"), values[f"{case}_sccam_deeplab_miou"], rtol=1e-9)
        np.testing.assert_allclose(100 * mean_iou(matrix, "all"), values[f"{case}_mct_miou_percent"], rtol=1e-7)
        np.testing.assert_allclose(pixel_accuracy(matrix), values[f"{case}_pixacc"], rtol=1e-9)
        np.testing.assert_allclose(mean_accuracy(matrix), values[f"{case}_meanacc"], rtol=1e-9)
        np.testing.assert_allclose(frequency_weighted_iou(matrix), values[f"{case}_fwiou"], rtol=1e-9)


def test_iou_per_class_matches_with_absent_classes_as_zero(reference):
    values = reference("cam-methods/eval_miou")
    for case, images in group_images_by_case(values).items():
        num_classes = len(values[f"{case}_sccam_deeplab_iou"])
        matrix = sum_confusion_matrices(values, case, images, num_classes)
        iou, in_truth = iou_per_class(matrix), count_pixels(matrix).truth > 0
        published = values[f"{case}_sccam_deeplab_iou"]
        np.testing.assert_allclose(iou[in_truth], published[in_truth], rtol=1e-9)
        expected = values[f"{case}_mct_iou_percent"]
        np.testing.assert_allclose(100 * np.nan_to_num(iou), expected, rtol=1e-7, atol=1e-7)


def test_masks_and_threshold_sweep_of_cams_match(reference):
    values = reference("cam-methods/eval_miou")
    maps, keys = values["cam_maps"], values["cam_keys"]
    thresholds = {key[len("cam_pred_th") :]: values[key] for key in values if key.startswith("cam_pred_th")}
    assert thresholds
    best_class, score = keys[maps.argmax(axis=0)] + 1, maps.max(axis=0)
    for threshold, mask in thresholds.items():
        np.testing.assert_array_equal(np.where(score <= np.float32(threshold), 0, best_class), mask)
    num_classes = int(best_class.max())
    sweep = ThresholdSweep(num_classes, [float(threshold) for threshold in thresholds])
    first_mask = next(iter(thresholds.values()))
    sweep.update(best_class, score, first_mask)
    for row, mask in zip(sweep.iou(), thresholds.values(), strict=True):
        np.testing.assert_array_equal(row, iou_per_class(confusion_matrix(first_mask, mask, num_classes + 1)))


def test_scores_of_clip_es_match(reference):
    values = reference("clip-es/unit_miou")
    num_classes = len(values["class_iou"])
    matrix = sum(confusion_matrix(*pair, num_classes) for pair in zip(values["gt"], values["pred"], strict=True))
    np.testing.assert_allclose(mean_iou(matrix, "truth"), values["mean_iou"], rtol=1e-9)
    np.testing.assert_allclose(pixel_accuracy(matrix), values["pixel_acc"], rtol=1e-9)
    np.testing.assert_allclose(mean_accuracy(matrix), values["mean_acc"], rtol=1e-9)
    np.testing.assert_allclose(frequency_weighted_iou(matrix), values["fw_iou"], rtol=1e-9)
    in_truth = count_pixels(matrix).truth > 0
    np.testing.assert_allclose(iou_per_class(matrix)[in_truth], values["class_iou"][in_truth], rtol=1e-9)
