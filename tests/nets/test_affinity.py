"""AffinityNet: PSA's checkpoints, several backbones, and its network file."""

from __future__ import annotations

import pytest
import torch

from nets.reference_keys import build_checkpoint
from stages.nets.affinity import AffinityNet
from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.net_files import build_net_from_description, describe_net, load_net, serialise_net
from stages.nets.registry import build_backbone
from stages.nets.weights import import_weights


def test_loads_psa_checkpoint_of_resnet38():
    net = AffinityNet(build_backbone("resnet38"))
    report = import_weights(net, build_checkpoint("resnet38_aff"))
    assert set(report.loaded) == set(net.state_dict()) and not report.dropped_head and not report.unused
    assert net.n_outputs == 448 and net.stride == 8


def test_resnet38_stages_are_the_inputs_of_its_blocks():
    backbone = build_backbone("resnet38").eval()
    block_inputs = []
    for block in (backbone.b5, backbone.b6):
        block.conv_branch2a.register_forward_pre_hook(lambda _module, inputs: block_inputs.append(inputs[0]))
    images = torch.randn(1, 3, 32, 40)
    with torch.inference_mode():
        final = backbone(images)
        conv4, conv5, conv6 = backbone.forward_stages(images)
    torch.testing.assert_close(conv4, block_inputs[0])
    torch.testing.assert_close(conv5, block_inputs[1])
    torch.testing.assert_close(conv6, final)
    assert (conv4.shape[1], conv5.shape[1], conv6.shape[1]) == backbone.stage_channels


@pytest.mark.parametrize("name, stride, channels", [
    ("torchvision:mobilenet_v2", None, (32, 96, 1280)), ("torchvision:mobilenet_v2", 16, (32, 96, 1280)),
    ("wsss:resnet50_irn", None, (512, 1024, 2048)), ("timm:resnet18", None, (128, 256, 512)),
    ("timm:vit_tiny_patch16_224", None, (192,)), ("wsss:tiny", None, (96,))])
def test_features_have_the_stride_of_the_finest_stage_used(name, stride, channels):
    net = AffinityNet(build_backbone(name, stride=stride)).eval()
    assert net.backbone.stage_channels[-3:] == channels
    with torch.inference_mode():
        features = net(torch.zeros(1, 3, 96, 64))
    assert features.shape == (1, net.n_outputs, 96 // net.stride, 64 // net.stride)
    assert net.stride == (16 if "vit" in name else 8)


def test_network_file_restores_the_network(tmp_path):
    torch.manual_seed(0)
    net = AffinityNet(build_backbone("torchvision:mobilenet_v2", stride=16), radius=4).eval()
    description = describe_net(net, classes=["background", "cat"], initial_weights={}, supervision="tags",
                               provenance=[])
    path = tmp_path / "affinity.safetensors"
    path.write_bytes(serialise_net(net.state_dict(), description))
    loaded, description = load_net(path)
    assert (loaded.radius, loaded.stride, description["task"]) == (4, 8, "affinity")
    images = torch.randn(1, 3, 64, 72)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), net(images))
        torch.testing.assert_close(fold_batch_norm(loaded)(images), net(images), rtol=1e-4, atol=1e-4)
    assert build_net_from_description(description).n_outputs == net.n_outputs
