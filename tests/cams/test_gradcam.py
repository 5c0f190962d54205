"""Grad-CAM against CAM and against plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stages.cams.gradcam import batch_maps
from stages.errors import UsageError
from stages.nets.layer_maps import LayerMaps
from stages.nets.plain_classifier import as_maps, layer_of


class Small(nn.Module):
    """Two convolutions, pooled; `classifier` has the CAM's weights."""

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
def net() -> Small:
    torch.manual_seed(1)
    return Small().double().eval().requires_grad_(False)


IMAGES = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
IDS = [np.array([1, 4]), np.array([2])]


def test_at_the_last_map_it_is_the_cam(net):
    found = batch_maps(LayerMaps(net, net.second, 4), [IMAGES], flip=False, chosen=lambda place, scores: IDS[place])
    cams = net.classifier(net.second(net.act(net.first(IMAGES)))).relu()
    for place, (ids, maps, scores) in enumerate(found):
        expected = cams[place, ids - 1]
        expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-30)
        np.testing.assert_allclose(maps, expected, atol=1e-6)
        np.testing.assert_allclose(scores, net(IMAGES)[place].sigmoid(), rtol=1e-5)


def test_at_an_inner_layer_it_is_the_formula(net):
    features = net.first(IMAGES).requires_grad_()
    logits = net.classifier(net.second(features.relu())).mean((-2, -1))
    found = batch_maps(LayerMaps(net, net.first, 4), [IMAGES], flip=False, chosen=lambda place, scores: IDS[place])
    for place, (ids, maps, _) in enumerate(found):
        for row, class_id in enumerate(ids):
            (gradient,) = torch.autograd.grad(logits[place, class_id - 1], features, retain_graph=True)
            expected = (gradient[place].mean((1, 2))[:, None, None] * features[place].detach()).sum(0).relu()
            np.testing.assert_allclose(maps[row], expected / expected.max().clamp_min(1e-30), atol=1e-6)


def test_flipping_the_image_flips_the_map(net):
    maps_of = LayerMaps(net, net.second, 4)
    one, other = (batch_maps(maps_of, [images], flip=True, chosen=lambda place, scores: IDS[place])[0][1]
                  for images in (IMAGES, IMAGES.flip(-1)))
    np.testing.assert_allclose(one.flip(-1), other, atol=1e-6)


def test_images_without_classes(net):
    found = batch_maps(LayerMaps(net, net.second, 4), [IMAGES], flip=False,
                       chosen=lambda place, scores: np.array([], dtype=int))
    assert [maps.shape for _, maps, _ in found] == [(0, 6, 8), (0, 6, 8)]


def test_tokens_become_maps():
    tokens = torch.arange(2 * 13 * 3).reshape(2, 13, 3)
    maps = as_maps(tokens, nn.Identity(), (48, 64))
    assert maps.shape == (2, 3, 3, 4)
    assert maps[0, :, 0, 0].tolist() == tokens[0, 1].tolist()
    assert maps[1, :, 2, 3].tolist() == tokens[1, 12].tolist()
    with pytest.raises(UsageError, match="no map"):
        as_maps(torch.zeros(2, 5), nn.Identity(), (48, 64))


def test_layers_by_name(net):
    assert layer_of(net, "second") is net.second
    with pytest.raises(UsageError, match="second"):
        layer_of(net, "secnd")
