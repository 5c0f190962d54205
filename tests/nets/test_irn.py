"""IRNet: IRN's checkpoints, several backbones, training mode, and its network file."""

from __future__ import annotations

import pytest
import torch

from nets.reference_keys import build_checkpoint, read_shapes
from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.classifier import Classifier
from stages.nets.irn import IRNet
from stages.nets.net_files import describe_net, load_net, serialise_net
from stages.nets.registry import build_backbone
from stages.nets.weight_names import translate_weight_names
from stages.nets.weights import import_weights


def test_loads_irn_checkpoint():
    table, state = read_shapes("irn_resnet50_irn"), build_checkpoint("irn_resnet50_irn")
    net = IRNet(build_backbone("resnet50_irn"))
    report = import_weights(net, state)
    assert set(report.loaded) == set(net.state_dict()) and not report.dropped_head
    assert set(report.unused) == set(translate_weight_names(state)[2])
    assert len(report.loaded) + len(report.unused) == len(table)
    weights = net.state_dict()
    for ours, theirs in {"edges.0.1.bias": "fc_edge1.1.bias", "edge.weight": "fc_edge6.weight",
                         "displacements.4.0.weight": "fc_dp5.0.weight", "coarse.0.weight": "fc_dp6.0.weight",
                         "displacement.3.weight": "fc_dp7.3.weight", "mean_displacement": "mean_shift.running_mean",
                         "backbone.layer3.0.conv1.weight": "resnet50.layer3.0.conv1.weight"}.items():
        assert weights[ours].flatten()[0] == state[theirs].flatten()[0], ours


def test_classifier_loads_the_backbone_of_an_irn_checkpoint_only():
    report = import_weights(Classifier(build_backbone("resnet50_irn"), 20), build_checkpoint("irn_resnet50_irn"))
    heads = {key for key in read_shapes("irn_resnet50_irn") if key.startswith(("fc_", "mean_shift"))}
    assert set(report.dropped_head) == heads - {"fc_dp7.4.running_mean"}


@pytest.mark.parametrize("name, stride, channels, strides", [
    ("torchvision:mobilenet_v2", None, (16, 24, 32, 96, 1280), (2, 4, 8, 16, 32)),
    ("torchvision:mobilenet_v2", 16, (16, 24, 32, 96, 1280), (2, 4, 8, 16, 16)),
    ("torchvision:resnet18", 4, (64, 64, 128, 256, 512), (4, 4, 4, 4, 4)),
    ("wsss:resnet50_irn", None, (64, 256, 512, 1024, 2048), (4, 4, 8, 16, 16)),
    ("wsss:tiny", None, (24, 48, 96), (2, 4, 8)), ("timm:resnet18", 8, (64, 64, 128, 256, 512), (2, 4, 8, 8, 8)),
    ("timm:convnext_atto", None, (40, 80, 160, 320), (4, 8, 16, 32)),
    ("timm:vit_tiny_patch16_224", None, (192,), (16,))])
def test_boundaries_and_displacements_for_any_backbone_and_image_size(name, stride, channels, strides):
    net = IRNet(build_backbone(name, stride=stride)).eval()
    assert (net.backbone.pyramid_channels, net.strides) == (channels, strides)
    images = torch.randn(2, 3, 75, 101, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        boundary, displacement = net(images)
        size = (-(-75 // net.stride), -(-101 // net.stride))
        assert boundary.shape == (2, *size) and displacement.shape == (2, 2, *size)
        torch.testing.assert_close(net.forward_boundaries(images), boundary)
        torch.testing.assert_close(fold_batch_norm(net).forward_boundaries(images), boundary, rtol=1e-4, atol=1e-4)
    assert net.stride == (16 if "vit" in name else 4)


@pytest.mark.parametrize("name, channels", [
    ("wsss:resnet38", (128, 256, 512, 1024, 4096)), ("wsss:deeplabv2_resnet101", (64, 256, 512, 1024, 2048)),
    ("torchvision:vgg11", (128, 256, 512, 512, 512)), ("torchvision:densenet121", (64, 256, 512, 1024, 1024))])
def test_pyramid_channels_of_other_backbones(name, channels):
    with torch.device("meta"):
        backbone = build_backbone(name)
        maps = backbone.forward_pyramid(torch.zeros(1, 3, 64, 64))
    assert tuple(level.shape[1] for level in maps) == backbone.pyramid_channels == channels
    assert maps[-1].shape == backbone(torch.zeros(1, 3, 64, 64, device="meta")).shape


def test_backbone_is_frozen_and_both_branches_are_trained():
    net = IRNet(build_backbone("tiny")).train()
    before = {key: value.clone() for key, value in net.backbone.state_dict().items()}
    boundary, displacement = net(torch.randn(2, 3, 32, 48))
    (boundary.sum() + displacement.square().sum()).backward()
    fast = {id(parameter) for parameter in net.fast_parameters()}
    for name, parameter in net.named_parameters():
        is_backbone = name.startswith("backbone.")
        assert parameter.requires_grad != is_backbone and (parameter.grad is None) == is_backbone, name
        assert (id(parameter) in fast) == name.startswith(("displacement", "coarse")), name
    assert all(torch.equal(before[key], value) for key, value in net.backbone.state_dict().items())


def test_mean_displacement_is_subtracted_in_evaluation_mode_only():
    net = IRNet(build_backbone("tiny"))
    images = torch.randn(1, 3, 32, 48)
    _, in_training = net.train()(images)
    net.mean_displacement.copy_(torch.tensor([0.5, -2.0]))
    _, in_evaluation = net.eval()(images)
    torch.testing.assert_close(in_training - in_evaluation,
                               net.mean_displacement.view(1, 2, 1, 1).expand_as(in_evaluation))
    torch.testing.assert_close(net.train()(images)[1], in_training)


def test_network_file_restores_the_network(tmp_path):
    torch.manual_seed(0)
    net = IRNet(build_backbone("torchvision:mobilenet_v2", stride=16), radius=6).eval()
    net.mean_displacement.copy_(torch.tensor([0.5, -2.0]))
    description = describe_net(net, classes=["background", "cat"], initial_weights={}, supervision="tags",
                               provenance=[])
    path = tmp_path / "irn.safetensors"
    path.write_bytes(serialise_net(net.state_dict(), description))
    loaded, description = load_net(path)
    assert (loaded.radius, loaded.stride, description["task"]) == (6, 4, "affinity")
    assert description["architecture"]["head"] == "irn"
    images = torch.randn(1, 3, 64, 72)
    with torch.inference_mode():
        for output, expected in zip(loaded(images), net(images), strict=True):
            torch.testing.assert_close(output, expected)
