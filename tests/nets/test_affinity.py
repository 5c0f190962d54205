"""AffinityNet on several backbones, and its checkpoints."""

from __future__ import annotations

import pytest
import torch

from nets.reference_keys import checkpoint_of
from stages.nets.affinity import AffinityNet
from stages.nets.files import build_from_description, describe_net, load_net, net_bytes
from stages.nets.folding import fold_batch_norm
from stages.nets.registry import build_backbone
from stages.nets.weights import import_weights


def test_psa_checkpoints_of_resnet38():
    net = AffinityNet(build_backbone("resnet38"))
    report = import_weights(net, checkpoint_of("resnet38_aff"))
    assert set(report.loaded) == set(net.state_dict()) and not report.dropped_head and not report.unused
    assert net.n_outputs == 448 and net.stride == 8


def test_resnet38s_stages_are_what_its_blocks_see():
    backbone = build_backbone("resnet38").eval()
    seen = []
    for block in (backbone.b5, backbone.b6):
        block.conv_branch2a.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 32, 40)
    with torch.inference_mode():
        final = backbone(images)
        conv4, conv5, conv6 = backbone.stage_maps(images)
    torch.testing.assert_close(conv4, seen[0])
    torch.testing.assert_close(conv5, seen[1])
    torch.testing.assert_close(conv6, final)
    assert (conv4.shape[1], conv5.shape[1], conv6.shape[1]) == backbone.stage_channels


@pytest.mark.parametrize("name, stride, channels", [
    ("torchvision:mobilenet_v2", None, (32, 96, 1280)), ("torchvision:mobilenet_v2", 16, (32, 96, 1280)),
    ("wsss:resnet50_irn", None, (512, 1024, 2048)), ("timm:resnet18", None, (128, 256, 512)),
    ("timm:vit_tiny_patch16_224", None, (192,)), ("wsss:tiny", None, (96,))])
def test_any_backbone_gives_features_at_its_finest_coarse_stage(name, stride, channels):
    net = AffinityNet(build_backbone(name, stride=stride)).eval()
    assert net.backbone.stage_channels[-3:] == channels
    with torch.inference_mode():
        features = net(torch.zeros(1, 3, 96, 64))
    assert features.shape == (1, net.n_outputs, 96 // net.stride, 64 // net.stride)
    assert net.stride == (16 if "vit" in name else 8)


def test_its_file_tells_how_to_build_it_again(tmp_path):
    torch.manual_seed(0)
    net = AffinityNet(build_backbone("torchvision:mobilenet_v2", stride=16), radius=4).eval()
    described = describe_net(net, classes=["background", "cat"], initial_weights={}, supervision="tags", provenance=[])
    path = tmp_path / "affinity.safetensors"
    path.write_bytes(net_bytes(net.state_dict(), described))
    again, description = load_net(path)
    assert (again.radius, again.stride, description["task"]) == (4, 8, "affinity")
    images = torch.randn(1, 3, 64, 72)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), net(images))
        torch.testing.assert_close(fold_batch_norm(again)(images), net(images), rtol=1e-4, atol=1e-4)
    assert build_from_description(description).n_outputs == net.n_outputs
