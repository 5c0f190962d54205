"""Training-free dense features, slide inference and zero-shot scores against the published systems' own functions."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.eval.score import ConfusionMatrix
from stages.kernels.dense_last_block import AttentionFunction, compute_dense_embeddings, compute_gaussian_bias
from stages.kernels.mean_iou import iou_per_class, mean_iou
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.clip_vision import VisionTower
from stages.segment import clearclip, maskclip, naclip, proxyclip, sclip
from stages.segment.config import NaclipConfig, apply_protocol
from stages.segment.dense_text import WordVectors, apply_threshold, score_classes
from tiny_clip import build_vision_config, list_image_sizes


@pytest.fixture(scope="module")
def towers(reference) -> dict[str, VisionTower]:
    """Return the tiny image tower with each mode of resizing position embeddings."""
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    values = reference("image-text/clip_dense")
    state = {name.removeprefix("sd.visual."): torch.from_numpy(array) for name, array in values.items()
             if name.startswith("sd.visual.")}
    settings = CLIPVisionCfg(**build_vision_config(state))
    towers = {}
    for positions in ("bicubic", "beside"):
        visual = _build_vision_tower(state["proj"].shape[1], settings, quick_gelu=True)
        visual.load_state_dict(state)
        towers[positions] = VisionTower(visual, positions=positions)
    return towers


def compute_dense_maps(tower: VisionTower, image: np.ndarray, attend: AttentionFunction,
                       whole_block: bool) -> np.ndarray:
    """Return the maps (B, E, h, w) of images (B, 3, H, W)."""
    with torch.inference_mode():
        tokens, grid = tower.forward_trunk(torch.from_numpy(image))
        embeddings = compute_dense_embeddings(tower.tail, tokens, grid, attend, whole_block=whole_block)
    return embeddings.transpose(1, 2).unflatten(-1, grid).numpy()


def test_maskclip_matches(reference, towers):
    values = reference("image-text/clip_dense")
    for size in list_image_sizes(values):
        actual = compute_dense_maps(towers["bicubic"], values[f"image_{size}"], maskclip.compute_context, True)
        np.testing.assert_allclose(actual, values[f"maskclip_dense_{size}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "attend", "whole_block"), [
    ("sclip_dense", sclip.compute_context, True), ("clearclip_dense", clearclip.compute_context, False),
    ("naclip_dense", partial(naclip.compute_context, deviation=5.0), False),
    ("naclip_vanillaarch_dense", partial(naclip.compute_context, deviation=5.0), True),
    ("kk_reduced_dense", partial(naclip.compute_context, deviation=0.0), False)])
def test_attention_variants_match(reference, towers, name, attend, whole_block):
    images, values = reference("image-text/clip_dense"), reference("image-text/training_free")
    for size in list_image_sizes(images):
        actual = compute_dense_maps(towers["beside"], images[f"image_{size}"], attend, whole_block)
        np.testing.assert_allclose(actual, values[f"{name}_{size}"], atol=2e-5, rtol=0)


def test_proxyclip_matches(reference, towers):
    images, values = reference("image-text/clip_dense"), reference("image-text/training_free")
    for size in list_image_sizes(images):
        image, features = images[f"image_{size}"], torch.from_numpy(values[f"proxy_ex_feats_{size}"])
        unit = F.normalize(features.flatten(2), dim=1)
        mean = (unit.transpose(1, 2) @ unit).mean()  # the released code averages over the batch
        weights = proxyclip.compute_proxy_attention(features, 1.2, 3.0, mean)
        attend = partial(_apply_weights, weights=weights)
        actual = compute_dense_maps(towers["beside"], image, attend, False)
        np.testing.assert_allclose(actual, values[f"proxyclip_dense_{size}"], atol=2e-5, rtol=0)
        if len(image) == 1:
            attend = partial(proxyclip.compute_context, features=features, beta=1.2, gamma=3.0)
            np.testing.assert_array_equal(compute_dense_maps(towers["beside"], image, attend, False), actual)


def _apply_weights(heads: Any, weights: torch.Tensor) -> torch.Tensor:
    return weights[:, None] @ heads.value[:, :, 1:]


def test_position_embeddings_and_gaussian_bias_match(reference, towers):
    dense_values, values = reference("image-text/clip_dense"), reference("image-text/training_free")
    for size in list_image_sizes(dense_values):
        grid = dense_values[f"maskclip_dense_{size}"].shape[-2:]
        for tower, expected in ((towers["bicubic"], dense_values[f"pos_emb_{size}"]),
                              (towers["beside"], values[f"pos_plus0.1_{size}"])):
            np.testing.assert_allclose(tower._get_positions(*grid), expected, atol=1e-6, rtol=0)
    grids = [match for name in values if (match := re.fullmatch(r"na_addition_(\d+)x(\d+)", name))]
    assert grids
    for match in grids:
        grid, expected = (int(match[1]), int(match[2])), values[match[0]]
        np.testing.assert_allclose(compute_gaussian_bias(grid, 5.0), expected[1:, 1:], atol=1e-6, rtol=0)
        assert not expected[0].any() and not expected[:, 0].any()


def test_slide_inference_matches(reference):
    values = reference("image-text/sliding")
    kernel = torch.from_numpy(values["conv"])
    names = sorted(name.removesuffix("_image") for name in values if name.endswith("_image"))
    assert names
    for name in names:
        image = torch.from_numpy(values[f"{name}_image"])[0]
        windows = SlidingWindows((image.shape[1], image.shape[2]), side=64, stride=32)
        parts = windows.crop(image)
        assert len(parts) == values[f"{name}_n_windows"]
        assert {tuple(part.shape[1:]) for part in parts} == {tuple(size) for size in
                                                            values[f"{name}_window_sizes"].tolist()}
        scores = torch.sigmoid(F.conv2d(parts, kernel, padding=1)) * (1 + 0.1 * parts.mean((1, 2, 3), keepdim=True))
        size, original = tuple(image.shape[1:]), tuple(values[f"{name}_ori"].tolist())
        np.testing.assert_allclose(windows.blend(scores, size), values[f"{name}_scores"][0], atol=1e-5, rtol=0)
        blended = windows.blend(scores, original)
        np.testing.assert_allclose(blended, values[f"{name}_scores_ori"][0], atol=1e-5, rtol=0)
        assert (blended.argmax(0).numpy() != values[f"{name}_pred"][0]).mean() < 1e-3


def predict_classes(soft: np.ndarray, *, threshold: float | None) -> np.ndarray:
    """Return our predictions (N, H, W) for the class scores `soft` (N, K, H, W)."""
    config = apply_protocol(NaclipConfig(protocol="tcl", scale=1.0, shift=0.0, threshold=threshold or 0.0))
    text = WordVectors(torch.eye(soft.shape[1]), (0, *(1 for _ in range(soft.shape[1]))), threshold is not None)
    predictions = []
    for image_scores in soft:
        # Cosines whose sigmoid gives these scores.
        logits = torch.logit(torch.from_numpy(image_scores).double()).float()
        scores = apply_threshold(score_classes(logits, text, config), text, config)
        predictions.append(scores.argmax(0).numpy())
    return np.stack(predictions)


@pytest.mark.parametrize(("case", "prediction"), [("with_bg", "pred_bg"), ("with_bg_nan", "pred_bg_noclass5")])
def test_zero_shot_scores_with_background_match(reference, case, prediction):
    values = reference("image-text/zs_eval")
    if case == "with_bg":
        actual = predict_classes(values["soft"], threshold=float(values["bg_thresh"]))
        np.testing.assert_array_equal(actual, values["pred_bg"])
    check_scores(values, case, values["label"], values[prediction])


def test_zero_shot_scores_without_background_match(reference):
    values = reference("image-text/zs_eval")
    actual = predict_classes(values["soft"], threshold=None)
    np.testing.assert_array_equal(actual - 1, values["pred_nobg"])
    # Value 0 of the benchmark is void: it becomes the ignore index, and the class ids decrease by one.
    label = np.where(values["label"] == 0, 255, values["label"] - 1 + (values["label"] == 255))
    check_scores(values, "no_bg_reduce0", label, values["pred_nobg"])


def check_scores(values: dict[str, np.ndarray], case: str, label: np.ndarray, prediction: np.ndarray) -> None:
    """Compare counts, IoU and mIoU with those of MMSegmentation."""
    score = ConfusionMatrix(len(values[f"{case}_IoU"]) - 1, 255, skip_ignored=False)
    for truth, one in zip(label, prediction, strict=True):
        score.add(truth, one)
    iou = iou_per_class(score.count_pixels())
    np.testing.assert_allclose(iou, values[f"{case}_IoU"], atol=1e-6, equal_nan=True)
    assert abs(mean_iou(score.count_pixels(), "either") - float(values[f"{case}_mIoU"])) < 1e-6
    assert round(100 * mean_iou(score.count_pixels(), "either"), 2) == pytest.approx(
        float(values[f"{case}_mIoU_round2_pct"]), abs=1e-4)


def test_ties_go_to_the_lower_class(reference):
    values = reference("image-text/zs_eval")
    np.testing.assert_array_equal(values["tie_scores"].argmax(1), values["tie_argmax"])
