"""Backbones: maps and strides, weight names, freezing, and the centre of the first cell."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nets.reference_keys import collect_shapes, read_shapes
from stages.errors import UsageError
from stages.nets.registry import WSSS_BACKBONES, build_backbone, resolve_backbone_name

SMALL_BACKBONES = (
    "wsss:tiny", "torchvision:mobilenet_v2", "torchvision:resnet18", "torchvision:densenet121",
    "timm:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224",
)  # fmt: skip


@pytest.mark.parametrize("name", SMALL_BACKBONES)
@torch.no_grad()
def test_maps_have_the_declared_channels_and_strides(name):
    backbone = build_backbone(name).eval()
    images = torch.randn(2, 3, 64, 97)
    level_maps = backbone.forward_levels(images)
    assert backbone.name == name
    assert backbone.level_channels == tuple(maps.shape[1] for maps in level_maps)
    for maps, stride in zip(level_maps, backbone.level_strides, strict=True):
        assert maps.shape[0] == 2
        assert abs(maps.shape[2] - 64 / stride) < 1 and abs(maps.shape[3] - 97 / stride) < 1
    assert backbone.level_strides == tuple(sorted(set(backbone.level_strides)))
    assert (backbone.channels, backbone.stride) == (backbone.level_channels[-1], backbone.level_strides[-1])
    torch.testing.assert_close(backbone(images), level_maps[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(WSSS_BACKBONES))
def test_wsss_backbones_declare_their_channels_strides_and_blocks(name):
    with torch.device("meta"):
        backbone = build_backbone(name)
        level_maps = backbone.forward_levels(torch.zeros(1, 3, 128, 128))
    for maps, channels, stride in zip(level_maps, backbone.level_channels, backbone.level_strides, strict=True):
        # Max pooling with ceil mode (Caffe) gives one more cell.
        assert maps.shape[1] == channels and maps.shape[3] - 128 // stride in (0, 1)
    names = [key for key, _ in backbone.named_parameters()]
    covered = [key for key in names for prefixes in backbone.block_prefixes.values()
               if any(key.startswith(prefix + ".") for prefix in prefixes)]  # fmt: skip
    assert sorted(covered) == sorted(names)


def test_keys_match_published_checkpoints():
    with torch.device("meta"):
        resnet38, resnet101 = build_backbone("resnet38"), build_backbone("deeplabv2_resnet101")
        irn = build_backbone("resnet50_irn")
    expected = {key: shape for key, shape in read_shapes("resnet38_cls").items() if not key.startswith("fc8")}
    assert collect_shapes(resnet38.state_dict()) == expected
    expected = {key: shape for key, shape in read_shapes("deeplabv2_resnet101").items() if not key.startswith("aspp")}
    assert collect_shapes(resnet101.state_dict()) == expected
    expected = {key[9:]: shape for key, shape in read_shapes("irn_resnet50_cam").items() if key.startswith("resnet50.")}
    assert collect_shapes(irn.state_dict()) == expected


def test_keys_match_timm_and_torchvision():
    import timm
    from torchvision import models

    model = models.mobilenet_v2().state_dict()
    backbone = build_backbone("mobilenet_v2")
    assert backbone.name == "torchvision:mobilenet_v2"
    assert list(backbone.state_dict()) == [key for key in model if not key.startswith("classifier.")]
    for name in ("resnet18", "vit_tiny_patch16_224"):
        state = timm.create_model(name, num_classes=0).state_dict()
        backbone = build_backbone(f"timm:{name}")
        backbone.load_state_dict(state)
        assert all(torch.equal(backbone.state_dict()[key], tensor) for key, tensor in state.items())


def test_lower_stride_makes_one_convolution_dense_without_dilation():
    plain, dense = build_backbone("mobilenet_v2"), build_backbone("mobilenet_v2", stride=16)
    modules = dict(dense.named_modules())
    changed = [
        name for name, module in plain.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride != modules[name].stride
    ]  # fmt: skip
    assert changed == ["features.14.conv.1.0"]
    assert all(module.dilation == (1, 1) for module in modules.values() if isinstance(module, nn.Conv2d))
    assert (dense.stride, dense.level_strides) == (16, (4, 8, 16))
    assert dense(torch.zeros(1, 3, 64, 96)).shape == (1, 1280, 4, 6)


def test_irn_has_stride_16_without_dilation_and_fixed_statistics():
    irn = build_backbone("resnet50_irn")
    assert irn.stride == 16 and irn.channels == 2048
    assert all(module.dilation == (1, 1) for module in irn.modules() if isinstance(module, nn.Conv2d))
    before = irn.bn1.running_mean.clone()
    irn.train()(torch.randn(2, 3, 64, 64))
    assert torch.equal(irn.bn1.running_mean, before)


@pytest.mark.parametrize(("name", "stride", "size"), [
    ("densenet121", 16, (4, 6)), ("vgg11", 16, (4, 6)), ("convnext_tiny", 16, (4, 6)), ("timm:resnet18", 16, (4, 6)),
])  # fmt: skip
def test_lower_stride_gives_larger_maps(name, stride, size):
    backbone = build_backbone(name, stride=stride).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 64, 96)).shape[2:] == size


@pytest.mark.parametrize("name", ["tiny", "timm:vit_tiny_patch16_224", "mobilenet_v2"])
def test_unsupported_stride_is_a_usage_error(name):
    with pytest.raises(UsageError, match="stride"):
        build_backbone(name, stride=64)


def test_names_resolve_in_order_and_unknown_names_get_suggestions():
    assert resolve_backbone_name("tiny") == ("wsss", "tiny")
    assert resolve_backbone_name("resnet50") == ("torchvision", "resnet50")
    assert resolve_backbone_name("timm:resnet50") == ("timm", "resnet50")
    assert resolve_backbone_name("convnext_atto") == ("timm", "convnext_atto")
    with pytest.raises(UsageError, match="torchvision:mobilenet_v2"):
        resolve_backbone_name("mobilenet-v2")
    with pytest.raises(UsageError, match="wsss, torchvision, timm"):
        resolve_backbone_name("hub:resnet50")
    with pytest.raises(UsageError, match="no map for images of any size"):
        build_backbone("timm:mixer_s16_224")


@pytest.mark.parametrize(("name", "until", "first"), [
    ("tiny", "layer1", "layer2.0.conv1.weight"), ("tiny", 2, "layer2.0.conv1.weight"), ("tiny", 0, "stem.0.weight"),
    ("mobilenet_v2", "features.3", "features.4.conv.0.0.weight"),
])  # fmt: skip
def test_freezes_all_blocks_up_to_the_named_one(name, until, first):
    backbone = build_backbone(name)
    backbone.freeze(until)
    trainable = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert trainable[0] == first
    names = [key for key, _ in backbone.named_parameters()]
    assert trainable == names[names.index(first) :]


def test_frozen_blocks_keep_their_batch_norm_statistics():
    backbone = build_backbone("tiny")
    backbone.freeze("stem")
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()(torch.randn(2, 3, 32, 32))
    assert torch.equal(backbone.stem[1].running_mean, state["stem.1.running_mean"])
    assert not torch.equal(backbone.layer1[0].bn1.running_mean, state["layer1.0.bn1.running_mean"])


def test_freezing_a_vit_freezes_its_positions_and_unknown_blocks_are_an_error():
    backbone = build_backbone("timm:vit_tiny_patch16_224")
    backbone.freeze("patch_embed")
    assert not backbone.model.pos_embed.requires_grad and backbone.model.blocks[0].norm1.weight.requires_grad
    with pytest.raises(UsageError, match=r"patch_embed, blocks\.0"):
        backbone.freeze("layer7")
    with pytest.raises(UsageError):
        backbone.freeze(99)


@torch.no_grad()
@pytest.mark.parametrize(("name", "stride", "centre"), [
    ("mobilenet_v2", None, 0.0), ("timm:resnet18", None, 0.0), ("timm:resnet18d", None, 7.0), ("vgg11", None, 15.5),
    ("densenet121", None, 14.0), ("convnext_tiny", None, 15.5), ("convnext_tiny", 16, 15.5), ("convnext_tiny", 8, 11.5),
    ("timm:convnext_atto", None, 15.5), ("wsss:resnet50_irn", None, 0.0), ("timm:tf_mobilenetv3_small_075", None, 31.0),
    ("timm:tf_efficientnet_b0", None, 31.0)])
def test_first_cell_centre_is_the_mean_of_the_receptive_field(name, stride, centre):
    """Compare with the mean position of the pixels that influence a cell, weighted by the number of paths to it.

    For this all convolutions and pools are turned into means, and norms and gates are removed.
    """
    backbone = build_backbone(name, stride=stride).eval()
    assert backbone.first_cell_centre == centre
    for module in list(backbone.modules()):
        for child, inner in list(module.named_children()):
            if isinstance(inner, torch.nn.MaxPool2d):
                setattr(module, child, torch.nn.AvgPool2d(inner.kernel_size, inner.stride, inner.padding))
            elif type(inner).__name__ == "SqueezeExcite" or (
                    "Norm" in type(inner).__name__ and not isinstance(inner, torch.nn.Sequential)):
                setattr(module, child, torch.nn.Identity())
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    with torch.enable_grad():
        # The receptive field of EfficientNet is about 850 pixels wide.
        height, width = (64, 1280) if "tf_" in name else (256, 256)
        images = torch.full((1, 3, height, width), 1e-3, dtype=torch.float64, requires_grad=True)
        maps = backbone.double()(images)
        middle = maps.shape[-1] // 2
        (gradient,) = torch.autograd.grad(maps[..., middle].sum(), images)
    influence = gradient.abs().sum((0, 1, 2))
    measured_centre = (influence * torch.arange(width)).sum() / influence.sum()
    assert float(measured_centre) == pytest.approx(centre + middle * backbone.stride, abs=1)


@pytest.mark.parametrize(("name", "centre"), [
    ("timm:vit_tiny_patch16_224", 7.5), ("timm:swin_tiny_patch4_window7_224", 15.5)])
def test_first_cell_centre_of_adjacent_patches(name, centre):
    assert build_backbone(name).first_cell_centre == centre


@torch.no_grad()
@pytest.mark.parametrize(("name", "cells"), [
    ("timm:inception_v3", (2, 3)), ("timm:hrnet_w18_small", (4, 6)), ("timm:tresnet_m", (4, 6))])
def test_networks_without_padding_and_networks_that_need_whole_cells(name, cells):
    backbone = build_backbone(name).eval()
    assert backbone.stride == 32 and backbone.level_strides == (4, 8, 16, 32)
    maps = backbone.forward_levels(torch.zeros(1, 3, 110, 163))
    assert maps[-1].shape[-2:] == backbone(torch.zeros(1, 3, 110, 163)).shape[-2:] == cells
    wider = backbone(torch.zeros(1, 3, 110, 163 + 320))
    assert wider.shape[-1] == cells[1] + 10


@pytest.mark.parametrize("name", ["timm:botnet26t_256", "timm:maxvit_rmlp_pico_rw_256"])
def test_networks_of_fixed_size_are_rejected(name):
    with pytest.raises(UsageError, match=r"images of any size \(it was built for 256 x 256"):
        build_backbone(name)


def test_map_holds_patch_tokens_row_by_row_without_the_class_token():
    backbone = build_backbone("timm:vit_tiny_patch16_224").eval()
    images = torch.randn(1, 3, 48, 80)
    tokens = backbone.model.forward_features(images)
    maps = backbone(images)
    assert maps.shape == (1, 192, 3, 5) and tokens.shape[1] == 16
    torch.testing.assert_close(maps[0, :, 1, 2], tokens[0, 1 + 5 + 2])
