"""Fused scores of a segmentation network over scales and mirrored images, and the masks that they give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stages.data.inference_views import build_corner_aligned_views, build_scaled_views
from stages.kernels.dense_crf import DenseCrfSettings
from stages.kernels.resample import upsample
from stages.segment.net import build_mask, compute_fused_scores

GRID = (6, 8)


class StridedNet(nn.Module):
    """Returns logits (B, 3, h, w) at stride 4 that depend on position, colour and scale."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.convolution = nn.Conv2d(3, 3, 5, stride=4, padding=2)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.randn(3, 3, 5, 5, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.convolution(images)


@pytest.fixture(scope="module")
def net() -> StridedNet:
    torch.manual_seed(0)
    return StridedNet().eval()


@pytest.fixture(scope="module")
def view() -> torch.Tensor:
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def test_scores_of_one_view_are_the_softmax_of_its_logits(net, view):
    scores = compute_fused_scores(net, [view], GRID, flip=False, fusion="mean", has_background=True)
    with torch.no_grad():
        torch.testing.assert_close(scores, net(view).softmax(1))


def test_mean_and_maximum_over_views(net, view):
    with torch.no_grad():
        both = torch.stack([net(view).softmax(1), net(view.flip(-1)).flip(-1).softmax(1)])
    mean = compute_fused_scores(net, [view], GRID, flip=True, fusion="mean", has_background=True)
    maximum = compute_fused_scores(net, [view], GRID, flip=True, fusion="max", has_background=True)
    torch.testing.assert_close(mean, both.mean(0))
    torch.testing.assert_close(maximum, both.amax(0))


@pytest.mark.parametrize("fusion", ["mean", "max"])
def test_mirrored_image_has_mirrored_scores(net, view, fusion):
    views = [view, view[:, :, ::2, ::2]]
    straight = compute_fused_scores(net, views, GRID, flip=True, fusion=fusion, has_background=True)
    mirrored = compute_fused_scores(net, [view.flip(-1) for view in views], GRID, flip=True, fusion=fusion,
                                    has_background=True)
    torch.testing.assert_close(mirrored.flip(-1), straight)


def test_without_background_its_channel_is_zero(net, view):
    scores = compute_fused_scores(net, [view], GRID, flip=True, fusion="mean", has_background=False)
    assert not scores[:, 0].any()
    torch.testing.assert_close(scores.sum(1), torch.ones(2, *GRID))


def test_mask_is_the_best_class_at_full_size():
    scores = np.random.default_rng(0).random((3, 5, 6)).astype(np.float16)
    mask, confidence = build_mask(scores, (18, 23))
    rows = upsample(scores.astype(np.float32), (18, 23), (18, 23))
    np.testing.assert_array_equal(mask, rows.argmax(axis=0))
    np.testing.assert_array_equal(confidence, np.round(rows.max(axis=0) * 255))
    assert mask.dtype == np.uint8


def test_mask_has_16_bits_from_255_classes_on():
    scores = np.zeros((256, 2, 2), np.float16)
    scores[255] = 1
    mask, _ = build_mask(scores, (2, 2))
    assert mask.dtype == np.uint16
    assert (mask == 255).all()
    assert build_mask(scores[1:], (2, 2))[0].dtype == np.uint8


def test_crf_chooses_among_the_likely_classes():
    image = np.zeros((16, 20, 3), np.uint8)
    image[:, 10:] = 255
    scores = np.full((4, 16, 20), 0.01, np.float32)
    scores[0, :, :9], scores[3, :, 9:] = 0.6, 0.6
    scores[3, :, :9], scores[0, :, 9:] = 0.3, 0.3
    plain, _ = build_mask(scores, (16, 20))
    mask, confidence = build_mask(scores, (16, 20), image=image, crf="deeplab")
    assert (plain[:, 9] == 3).all()
    np.testing.assert_array_equal(mask, np.where(np.arange(20) < 10, 0, 3)[None].repeat(16, 0))
    assert confidence.min() > 127


def test_crf_of_mctformer_does_not_normalise_maxima(monkeypatch):
    """Maxima over scales sum to more than 1; the published code does not normalise them again."""
    calls = []

    def record_call(images: list[np.ndarray], unaries: list[np.ndarray], settings: DenseCrfSettings,
                    *engine_and_device: str) -> list[np.ndarray]:
        calls.extend((unary, settings) for unary in unaries)
        return [np.exp(-unary) for unary in unaries]

    monkeypatch.setattr("stages.segment.net.dense_crf_batch", record_call)
    scores = np.random.default_rng(0).uniform(0.3, 0.9, (3, 6, 8)).astype(np.float32)
    build_mask(scores, (6, 8), image=np.zeros((6, 8, 3), np.uint8), crf="mctformer")
    (unary, settings), = calls
    np.testing.assert_allclose(unary, -np.log(scores), rtol=1e-5)
    assert settings == DenseCrfSettings(iterations=10, gaussian_sxy=4, gaussian_weight=3, bilateral_sxy=83,
                                        bilateral_srgb=5, bilateral_weight=3)


def test_corner_aligned_views_keep_the_corner_pixels():
    image = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    views = build_corner_aligned_views(image, (0.5, 1.0, 1.5), (0.0,) * 3, (1.0,) * 3)
    assert [view.shape for view in views] == [(3, 5, 6), (3, 11, 13), (3, 16, 19)]
    for view in views:
        np.testing.assert_allclose(view[:, ::view.shape[1] - 1, ::view.shape[2] - 1] * 255,
                                   image[::10, ::12].transpose(2, 0, 1), rtol=1e-5, atol=1e-4)
    assert build_corner_aligned_views(image[:1, :1], (0.5,), (0.0,) * 3, (1.0,) * 3)[0].shape == (3, 1, 1)


def test_views_are_normalised_and_resized():
    image = np.full((10, 12, 3), 255, np.uint8)
    small, same = build_scaled_views(image, (0.5, 1.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert small.shape == (3, 5, 6)
    np.testing.assert_allclose(same, np.full((3, 10, 12), 2.0))
