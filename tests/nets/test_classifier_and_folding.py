"""The classifier and its CAMs, and folding BatchNorm into convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter


def initialise_head(net: Classifier) -> Classifier:
    """Give the head random weights: with its initial zeros any equation would hold."""
    torch.nn.init.normal_(net.classifier.weight)
    return net


def test_head_starts_from_zeros() -> None:
    assert not Classifier(build_backbone("tiny"), 3).classifier.weight.any()


def shuffle_batch_norm(net: nn.Module) -> nn.Module:
    """Give every BatchNorm random statistics and parameters."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return net


def count_batch_norms(net: nn.Module) -> int:
    """Return the number of BatchNorm layers."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2", "timm:vit_tiny_patch16_224"])
@torch.no_grad()
def test_mean_of_the_maps_is_the_logit(name):
    net = initialise_head(Classifier(build_backbone(name), 7)).eval()
    images = torch.randn(2, 3, 64, 80)
    maps, logits = net.maps(images), net(images)
    assert logits.shape == (2, 7) and maps.shape[:2] == (2, 7)
    torch.testing.assert_close(maps.mean((2, 3)), logits, rtol=1e-4, atol=1e-5)


def test_classifier_has_no_bias_and_only_head_parameters():
    net = initialise_head(Classifier(build_backbone("tiny"), 3, dropout=0.5))
    assert list(net.state_dict())[-1] == "classifier.weight" and net.classifier.weight.shape == (3, 96, 1, 1)
    assert [parameter is net.classifier.weight for parameter in net.head_parameters()] == [True]
    images = torch.randn(1, 3, 32, 32)
    net.backbone.eval()
    assert not torch.equal(net(images), net(images))
    assert torch.equal(net.eval()(images), net(images))


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2", "resnet50_irn", "timm:resnet18", "timm:mobilenetv2_100"])
@torch.no_grad()
def test_folding_preserves_the_maps(name):
    net = shuffle_batch_norm(initialise_head(Classifier(build_backbone(name), 5))).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold_batch_norm(net)
    images = torch.randn(1, 3, 65, 90)
    maps = net.maps(images)
    torch.testing.assert_close(folded.maps(images), maps, rtol=0, atol=1e-4 * float(maps.abs().max()))
    assert count_batch_norms(folded) == 0 and count_batch_norms(net) > 0
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())


@torch.no_grad()
def test_folding_skips_a_norm_that_comes_first_or_whose_input_is_read_twice():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            self.last = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, images):
            maps = self.first(images)
            return self.last(self.norm(maps) + maps)

    folded = fold_batch_norm(shuffle_batch_norm(Residual()).eval())
    assert count_batch_norms(folded) == 1 and count_batch_norms(folded.last) == 0
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))
    assert count_batch_norms(fold_batch_norm(net)) == 1


@torch.no_grad()
def test_folding_is_skipped_when_it_would_not_be_exact():
    class ScaledConv2d(nn.Conv2d):
        def forward(self, images):
            return super().forward(images) / self.weight.abs().max()

    ScaledConv2d.__name__ = "Conv2d"  # looks like a plain convolution, but is not
    net = shuffle_batch_norm(nn.Sequential(ScaledConv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    assert count_batch_norms(fold_batch_norm(net)) == 1


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v2", "timm:resnet18"])
@torch.no_grad()
def test_folding_preserves_the_logits_of_a_segmenter(name):
    net = shuffle_batch_norm(build_segmenter(name, 4)).eval()
    folded = fold_batch_norm(net)
    images = torch.randn(1, 3, 64, 64)
    logits = net(images)
    torch.testing.assert_close(folded(images), logits, rtol=0, atol=1e-4 * float(logits.abs().max()))
    assert count_batch_norms(folded) == 0
