"""Convolutions that apply the activation after them: same outputs, and what is not fused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.nets.activation_fusion import FusedConvolution, can_fuse, fuse_activations
from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.classifier import Classifier
from stages.nets.precision import resolve_precision
from stages.nets.registry import build_backbone

pytestmark = pytest.mark.skipif(not can_fuse(), reason="this torch has no fused convolutions")


def list_activations(net: nn.Module) -> list[str]:
    return [module.name for module in net.modules() if isinstance(module, FusedConvolution)]


@pytest.fixture(scope="module")
def folded() -> nn.Module:
    torch.manual_seed(0)
    net = Classifier(build_backbone("mobilenet_v2", stride=16), 3)
    nn.init.normal_(net.classifier.weight)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return fold_batch_norm(net.eval())


@torch.inference_mode()
def test_maps_are_those_of_the_network(folded):
    fused = fuse_activations(folded)
    assert list_activations(fused).count("hardtanh") == 35, "MobileNet-v2 has 35 ReLU6"
    assert not any(isinstance(module, FusedConvolution) for module in folded.modules()), "the network is not changed"
    images = torch.randn(2, 3, 65, 90)
    maps = folded.maps(images)
    torch.testing.assert_close(fused.maps(images), maps, rtol=0, atol=1e-5 * float(maps.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_autocast_is_followed(folded, dtype):
    fused, images = fuse_activations(folded), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        maps, expected = fused.maps(images), folded.maps(images)
    assert maps.dtype == dtype
    # A bfloat16 has 8 bits; its sums are rounded after each of about 50 layers, in the same order in both networks.
    torch.testing.assert_close(maps.float(), expected.float(), rtol=0, atol=2 ** -5 * float(expected.abs().max()))


@torch.inference_mode()
def test_activation_is_not_fused_where_its_input_is_read_twice_or_it_runs_twice():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.relu, self.relu6 = nn.ReLU(), nn.ReLU6()

        def forward(self, images):
            maps = self.relu(self.second(self.relu(self.first(images))))
            raw = self.last(maps)
            return self.relu6(raw) + raw

    net = Shared().eval()
    fused, images = fuse_activations(net), torch.randn(1, 3, 16, 16)
    assert list_activations(fused) == ["none"] * 3
    torch.testing.assert_close(fused(images), net(images))


@torch.inference_mode()
def test_relu_is_fused_and_odd_convolutions_are_left():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU(),
                        nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.ReLU(),
                        nn.Conv2d(4, 4, 2, padding="same"), nn.ReLU6(),
                        nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU()).eval()
    fused, images = fuse_activations(net), torch.randn(1, 3, 16, 16)
    assert list_activations(fused) == ["leaky_relu", "leaky_relu"]
    torch.testing.assert_close(fused(images), net(images))


@pytest.mark.parametrize(("activation", "num_fused"), [(nn.ReLU, 2), (nn.ReLU6, 0), (nn.SiLU, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_overflow_gives_nan_as_without_fusion(activation, num_fused, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), activation(),
                        nn.Conv2d(8, 8, 3, groups=8), activation(), nn.Conv2d(8, 2, 1)).eval()
    net[1].weight.mul_(1e18)
    net[2].weight.mul_(1e15)
    fused, images = fuse_activations(net), 1e21 * torch.randn(1, 3, 16, 16)
    assert 5 - list_activations(fused).count("none") == num_fused
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert not net(images).isfinite().all()
        assert not fused(images).isfinite().all(), "finite maps would look like those of an image without the class"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_computes_in_it(monkeypatch, has_bf16, expected):
    monkeypatch.setattr("stages.nets.precision.has_cpu_bf16", lambda: has_bf16)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("fp16", "cpu") == "fp16"
