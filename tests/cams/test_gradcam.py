"""Grad-CAM compared with CAM and with autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stages.cams.gradcam import compute_cams
from stages.errors import UsageError
from stages.nets.layer_maps import LayerMapExtractor
from stages.nets.library_classifier import find_layer, reshape_to_maps


class SmallNet(nn.Module):
    """Two convolutions and pooling; `classifier` has the weights of the CAM."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.classifier(self.second(self.act(self.first(images)))).mean((-2, -1))


@pytest.fixture
def net() -> SmallNet:
    torch.manual_seed(1)
    return SmallNet().double().eval().requires_grad_(False)


IMAGES = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
IDS = [np.array([1, 4]), np.array([2])]


def test_gradcam_at_last_layer_equals_cam(net):
    results = compute_cams(LayerMapExtractor(net, net.second, 4), [IMAGES], flip=False,
                           choose_classes=lambda position, scores: IDS[position])
    cams = net.classifier(net.second(net.act(net.first(IMAGES)))).relu()
    for position, (ids, maps, scores) in enumerate(results):
        expected = cams[position, ids - 1]
        expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-30)
        np.testing.assert_allclose(maps, expected, atol=1e-6)
        np.testing.assert_allclose(scores, net(IMAGES)[position].sigmoid(), rtol=1e-5)


def test_gradcam_at_inner_layer_equals_autograd(net):
    features = net.first(IMAGES).requires_grad_()
    logits = net.classifier(net.second(features.relu())).mean((-2, -1))
    results = compute_cams(LayerMapExtractor(net, net.first, 4), [IMAGES], flip=False,
                           choose_classes=lambda position, scores: IDS[position])
    for position, (ids, maps, _) in enumerate(results):
        for row, class_id in enumerate(ids):
            (gradient,) = torch.autograd.grad(logits[position, class_id - 1], features, retain_graph=True)
            expected = (gradient[position].mean((1, 2))[:, None, None] * features[position].detach()).sum(0).relu()
            np.testing.assert_allclose(maps[row], expected / expected.max().clamp_min(1e-30), atol=1e-6)


def test_mirrored_image_has_mirrored_maps(net):
    layer_maps = LayerMapExtractor(net, net.second, 4)
    plain, mirrored = (
        compute_cams(layer_maps, [images], flip=True, choose_classes=lambda position, scores: IDS[position])[0][1]
        for images in (IMAGES, IMAGES.flip(-1)))
    np.testing.assert_allclose(plain.flip(-1), mirrored, atol=1e-6)


def test_images_without_classes(net):
    results = compute_cams(LayerMapExtractor(net, net.second, 4), [IMAGES], flip=False,
                           choose_classes=lambda position, scores: np.array([], dtype=int))
    assert [maps.shape for _, maps, _ in results] == [(0, 6, 8), (0, 6, 8)]


def test_tokens_become_maps():
    tokens = torch.arange(2 * 13 * 3).reshape(2, 13, 3)
    maps = reshape_to_maps(tokens, nn.Identity(), (48, 64))
    assert maps.shape == (2, 3, 3, 4)
    assert maps[0, :, 0, 0].tolist() == tokens[0, 1].tolist()
    assert maps[1, :, 2, 3].tolist() == tokens[1, 12].tolist()
    with pytest.raises(UsageError, match="no map"):
        reshape_to_maps(torch.zeros(2, 5), nn.Identity(), (48, 64))


def test_find_layer_by_name(net):
    assert find_layer(net, "second") is net.second
    with pytest.raises(UsageError, match="second"):
        find_layer(net, "secnd")
