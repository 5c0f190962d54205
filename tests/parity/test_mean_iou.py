"""Mean IoU under three published rules against reference values."""

from __future__ import annotations

import re

import numpy as np

from stages.kernels.mean_iou import (
    confusion,
    counts_of,
    frequency_weighted_iou,
    iou_per_class,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)
from stages.kernels.threshold_sweep import ThresholdSweep


def cases(values) -> dict[str, list[str]]:
    """Return the image numbers of each case, from keys such as `few_classes_gt0`."""
    listed: dict[str, list[str]] = {}
    for key in values:
        if match := re.fullmatch(r"(.+)_gt(\d+)", key):
            listed.setdefault(match.group(1), []).append(match.group(2))
    assert listed
    return listed


def total(values, case: str, images: list[str], n: int) -> np.ndarray:
    return sum(confusion(values[f"{case}_gt{i}"], values[f"{case}_pred{i}"], n) for i in images)


def test_all_cases_under_all_rules(reference):
    values = reference("cam-methods/eval_miou")
    for case, images in cases(values).items():
        n = len(values[f"{case}_sccam_deeplab_iou"])
        counted = total(values, case, images, n)
        # IRN's counts end at the highest class that occurs.
        irn = values[f"{case}_irn_confusion"]
        np.testing.assert_array_equal(counted[: len(irn), : len(irn)], irn)
        assert counted.sum() == irn.sum()
        np.testing.assert_allclose(iou_per_class(counted)[: len(irn)], values[f"{case}_irn_iou"], rtol=1e-9)
        np.testing.assert_allclose(mean_iou(counted), values[f"{case}_irn_miou"], rtol=1e-9)
        np.testing.assert_allclose(mean_iou(counted, "truth"), values[f"{case}_sccam_deeplab_miou"], rtol=1e-9)
        np.testing.assert_allclose(100 * mean_iou(counted, "all"), values[f"{case}_mct_miou_percent"], rtol=1e-7)
        np.testing.assert_allclose(pixel_accuracy(counted), values[f"{case}_pixacc"], rtol=1e-9)
        np.testing.assert_allclose(mean_accuracy(counted), values[f"{case}_meanacc"], rtol=1e-9)
        np.testing.assert_allclose(frequency_weighted_iou(counted), values[f"{case}_fwiou"], rtol=1e-9)


def test_iou_per_class_of_truth_only_and_absent_as_zero(reference):
    values = reference("cam-methods/eval_miou")
    for case, images in cases(values).items():
        n = len(values[f"{case}_sccam_deeplab_iou"])
        counted = total(values, case, images, n)
        iou, in_truth = iou_per_class(counted), counts_of(counted).truth > 0
        published = values[f"{case}_sccam_deeplab_iou"]
        np.testing.assert_allclose(iou[in_truth], published[in_truth], rtol=1e-9)
        mct = values[f"{case}_mct_iou_percent"]
        np.testing.assert_allclose(100 * np.nan_to_num(iou), mct, rtol=1e-7, atol=1e-7)


def test_masks_and_sweep_of_maps(reference):
    values = reference("cam-methods/eval_miou")
    maps, keys = values["cam_maps"], values["cam_keys"]
    thresholds = {key[len("cam_pred_th") :]: values[key] for key in values if key.startswith("cam_pred_th")}
    assert thresholds
    winner, score = keys[maps.argmax(axis=0)] + 1, maps.max(axis=0)
    for threshold, mask in thresholds.items():
        np.testing.assert_array_equal(np.where(score <= np.float32(threshold), 0, winner), mask)
    n = int(winner.max())
    sweep = ThresholdSweep(n, [float(threshold) for threshold in thresholds])
    first = next(iter(thresholds.values()))
    sweep.update(winner, score, first)
    for row, mask in zip(sweep.iou(), thresholds.values(), strict=True):
        np.testing.assert_array_equal(row, iou_per_class(confusion(first, mask, n + 1)))


def test_clip_es_scores(reference):
    values = reference("clip-es/unit_miou")
    n = len(values["class_iou"])
    counted = sum(confusion(*pair, n) for pair in zip(values["gt"], values["pred"], strict=True))
    np.testing.assert_allclose(mean_iou(counted, "truth"), values["mean_iou"], rtol=1e-9)
    np.testing.assert_allclose(pixel_accuracy(counted), values["pixel_acc"], rtol=1e-9)
    np.testing.assert_allclose(mean_accuracy(counted), values["mean_acc"], rtol=1e-9)
    np.testing.assert_allclose(frequency_weighted_iou(counted), values["fw_iou"], rtol=1e-9)
    in_truth = counts_of(counted).truth > 0
    np.testing.assert_allclose(iou_per_class(counted)[in_truth], values["class_iou"][in_truth], rtol=1e-9)
