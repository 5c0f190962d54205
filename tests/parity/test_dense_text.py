"""Training-free dense features, slide inference and zero-shot scores against the published systems' own functions."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.eval.score import MaskScore
from stages.kernels.dense_tail import Attend, dense_embeddings, neighbourhood
from stages.kernels.mean_iou import iou_per_class, mean_iou
from stages.kernels.windows import Windows
from stages.nets.clip_vision import VisionTower
from stages.segment import clearclip, maskclip, naclip, proxyclip, sclip
from stages.segment.config import NaclipConfig, resolved
from stages.segment.dense_text import TextSide, class_scores, with_threshold
from tiny_clip import sizes_of, vision_config


@pytest.fixture(scope="module")
def towers(reference) -> dict[str, VisionTower]:
    """Return the tiny image tower with each way of resizing positions."""
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    values = reference("image-text/clip_dense")
    state = {name.removeprefix("sd.visual."): torch.from_numpy(array) for name, array in values.items()
             if name.startswith("sd.visual.")}
    settings = CLIPVisionCfg(**vision_config(state))
    found = {}
    for positions in ("bicubic", "beside"):
        visual = _build_vision_tower(state["proj"].shape[1], settings, quick_gelu=True)
        visual.load_state_dict(state)
        found[positions] = VisionTower(visual, positions=positions)
    return found


def dense(tower: VisionTower, image: np.ndarray, attend: Attend, whole_block: bool) -> np.ndarray:
    """Return the maps (B, E, h, w) of images (B, 3, H, W)."""
    with torch.inference_mode():
        tokens, grid = tower.trunk(torch.from_numpy(image))
        found = dense_embeddings(tower.tail, tokens, grid, attend, whole_block=whole_block)
    return found.transpose(1, 2).unflatten(-1, grid).numpy()


def test_maskclip(reference, towers):
    values = reference("image-text/clip_dense")
    for size in sizes_of(values):
        found = dense(towers["bicubic"], values[f"image_{size}"], maskclip.context, True)
        np.testing.assert_allclose(found, values[f"maskclip_dense_{size}"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "attend", "whole_block"), [
    ("sclip_dense", sclip.context, True), ("clearclip_dense", clearclip.context, False),
    ("naclip_dense", partial(naclip.context, deviation=5.0), False),
    ("naclip_vanillaarch_dense", partial(naclip.context, deviation=5.0), True),
    ("kk_reduced_dense", partial(naclip.context, deviation=0.0), False)])
def test_other_attentions(reference, towers, name, attend, whole_block):
    images, values = reference("image-text/clip_dense"), reference("image-text/training_free")
    for size in sizes_of(images):
        found = dense(towers["beside"], images[f"image_{size}"], attend, whole_block)
        np.testing.assert_allclose(found, values[f"{name}_{size}"], atol=2e-5, rtol=0)


def test_proxyclip(reference, towers):
    images, values = reference("image-text/clip_dense"), reference("image-text/training_free")
    for size in sizes_of(images):
        image, features = images[f"image_{size}"], torch.from_numpy(values[f"proxy_ex_feats_{size}"])
        unit = F.normalize(features.flatten(2), dim=1)
        mean = (unit.transpose(1, 2) @ unit).mean()  # the released code's is over the batch
        weights = proxyclip.proxy_attention(features, 1.2, 3.0, mean)
        attend = partial(_weighed, weights=weights)
        found = dense(towers["beside"], image, attend, False)
        np.testing.assert_allclose(found, values[f"proxyclip_dense_{size}"], atol=2e-5, rtol=0)
        if len(image) == 1:
            attend = partial(proxyclip.context, features=features, beta=1.2, gamma=3.0)
            np.testing.assert_array_equal(dense(towers["beside"], image, attend, False), found)


def _weighed(heads: Any, weights: torch.Tensor) -> torch.Tensor:
    return weights[:, None] @ heads.value[:, :, 1:]


def test_positions_and_the_neighbourhood(reference, towers):
    dense_values, values = reference("image-text/clip_dense"), reference("image-text/training_free")
    for size in sizes_of(dense_values):
        grid = dense_values[f"maskclip_dense_{size}"].shape[-2:]
        for tower, wanted in ((towers["bicubic"], dense_values[f"pos_emb_{size}"]),
                              (towers["beside"], values[f"pos_plus0.1_{size}"])):
            np.testing.assert_allclose(tower._position_embedding(*grid), wanted, atol=1e-6, rtol=0)
    grids = [match for name in values if (match := re.fullmatch(r"na_addition_(\d+)x(\d+)", name))]
    assert grids
    for match in grids:
        grid, wanted = (int(match[1]), int(match[2])), values[match[0]]
        np.testing.assert_allclose(neighbourhood(grid, 5.0), wanted[1:, 1:], atol=1e-6, rtol=0)
        assert not wanted[0].any() and not wanted[:, 0].any()


def test_slide_inference(reference):
    values = reference("image-text/sliding")
    kernel = torch.from_numpy(values["conv"])
    names = sorted(name.removesuffix("_image") for name in values if name.endswith("_image"))
    assert names
    for name in names:
        image = torch.from_numpy(values[f"{name}_image"])[0]
        windows = Windows((image.shape[1], image.shape[2]), side=64, stride=32)
        parts = windows.cut(image)
        assert len(parts) == values[f"{name}_n_windows"]
        assert {tuple(part.shape[1:]) for part in parts} == {tuple(size) for size in
                                                            values[f"{name}_window_sizes"].tolist()}
        scores = torch.sigmoid(F.conv2d(parts, kernel, padding=1)) * (1 + 0.1 * parts.mean((1, 2, 3), keepdim=True))
        own, original = tuple(image.shape[1:]), tuple(values[f"{name}_ori"].tolist())
        np.testing.assert_allclose(windows.blend(scores, own), values[f"{name}_scores"][0], atol=1e-5, rtol=0)
        blended = windows.blend(scores, original)
        np.testing.assert_allclose(blended, values[f"{name}_scores_ori"][0], atol=1e-5, rtol=0)
        assert (blended.argmax(0).numpy() != values[f"{name}_pred"][0]).mean() < 1e-3


def scored(soft: np.ndarray, *, threshold: float | None) -> np.ndarray:
    """Return the predictions (N, H, W) of `soft` (N, K, H, W) as scores of K classes, by our own path."""
    config = resolved(NaclipConfig(protocol="tcl", scale=1.0, shift=0.0, threshold=threshold or 0.0))
    text = TextSide(torch.eye(soft.shape[1]), (0, *(1 for _ in range(soft.shape[1]))), threshold is not None)
    found = []
    for one in soft:
        # Cosines whose sigmoid gives these values.
        logits = torch.logit(torch.from_numpy(one).double()).float()
        rows = with_threshold(class_scores(logits, text, config), text, config)
        found.append(rows.argmax(0).numpy())
    return np.stack(found)


@pytest.mark.parametrize(("case", "prediction"), [("with_bg", "pred_bg"), ("with_bg_nan", "pred_bg_noclass5")])
def test_zero_shot_scores_with_background(reference, case, prediction):
    values = reference("image-text/zs_eval")
    if case == "with_bg":
        found = scored(values["soft"], threshold=float(values["bg_thresh"]))
        np.testing.assert_array_equal(found, values["pred_bg"])
    counted(values, case, values["label"], values[prediction])


def test_zero_shot_scores_without_background(reference):
    values = reference("image-text/zs_eval")
    found = scored(values["soft"], threshold=None)
    np.testing.assert_array_equal(found - 1, values["pred_nobg"])
    # The benchmark's 0 is void: it becomes ignore, and the classes move down by one.
    label = np.where(values["label"] == 0, 255, values["label"] - 1 + (values["label"] == 255))
    counted(values, "no_bg_reduce0", label, values["pred_nobg"])


def counted(values: dict[str, np.ndarray], case: str, label: np.ndarray, prediction: np.ndarray) -> None:
    """Compare counts, IoU and mIoU with MMSegmentation's."""
    score = MaskScore(len(values[f"{case}_IoU"]) - 1, 255, skip_ignored=False)
    for truth, one in zip(label, prediction, strict=True):
        score.add(truth, one)
    iou = iou_per_class(score.counts())
    np.testing.assert_allclose(iou, values[f"{case}_IoU"], atol=1e-6, equal_nan=True)
    assert abs(mean_iou(score.counts(), "either") - float(values[f"{case}_mIoU"])) < 1e-6
    assert round(100 * mean_iou(score.counts(), "either"), 2) == pytest.approx(
        float(values[f"{case}_mIoU_round2_pct"]), abs=1e-4)


def test_ties_go_to_the_lower_class(reference):
    values = reference("image-text/zs_eval")
    np.testing.assert_array_equal(values["tie_scores"].argmax(1), values["tie_argmax"])
