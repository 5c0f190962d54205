"""Segmentation networks: the light head, DeepLab-v2 and DeepLab-LargeFOV."""

from __future__ import annotations

import pytest
import torch

from nets.reference_keys import collect_shapes, read_shapes
from stages.errors import UsageError
from stages.nets.deeplab_light import find_skip_level
from stages.nets.segmenter import build_segmenter
from stages.training.optimiser import set_training_mode


@pytest.mark.parametrize(("name", "stride", "size"), [
    ("tiny", None, (17, 25)), ("mobilenet_v2", 16, (9, 13)), ("timm:resnet18", None, (9, 13)),
    ("timm:vit_tiny_patch16_224", None, (5, 7)),
])  # fmt: skip
def test_light_head_gives_logits_at_the_stride_of_its_skip(name, stride, size):
    net = build_segmenter(name, 6, stride=stride)
    logits = net(torch.randn(1, 3, 65, 97))
    assert logits.shape == (1, 6, *size)
    assert net.stride == {17: 4, 9: 8, 5: 16}[size[0]]
    assert net.head == "deeplab-light" and net.bgr is False and len(net.mean) == len(net.std) == 3
    assert [len(logits) for logits in net.forward_training(torch.randn(2, 3, 64, 64))] == [2]
    head, backbone = ({id(parameter) for parameter in group}
                      for group in (net.head_parameters(), net.backbone.parameters()))
    assert not head & backbone and len(head | backbone) == len(list(net.parameters()))


def test_skip_is_at_stride_8_or_at_the_next_finer_map():
    assert find_skip_level((4, 8, 16, 32)) == 1
    assert find_skip_level((4, 8)) == 0
    assert find_skip_level((4, 16)) == 0
    assert find_skip_level((4, 8, 16)) == 1
    assert find_skip_level((16,)) is None


def test_deeplab_v2_has_the_published_keys_and_fuses_three_scales():
    expected = read_shapes("deeplabv2_resnet101")
    with torch.device("meta"):
        net = build_segmenter("deeplabv2_resnet101", expected["aspp.c0.weight"][0])
        outputs = net.forward_training(torch.zeros(1, 3, 321, 321))
    assert collect_shapes(net.state_dict()) == expected
    assert [tuple(logits.shape[2:]) for logits in outputs] == [(41, 41), (31, 31), (21, 21), (41, 41)]
    assert net.bgr and net.stride == 8 and net.head == "deeplab-v2"
    net.backbone.freeze("layer2")
    assert not net.layer2.block1.reduce.conv.weight.requires_grad and net.layer3.block1.reduce.conv.weight.requires_grad


def test_deeplab_v2_reads_bgr_and_keeps_its_statistics():
    net = build_segmenter("deeplabv2_resnet101", 3)
    layer_inputs = []
    net.layer1.register_forward_pre_hook(lambda _, inputs: layer_inputs.append(inputs[0]))
    images = torch.randn(1, 3, 33, 33)
    net.train()
    before = net.layer5.block1.reduce.bn.running_mean.clone()
    with torch.no_grad():
        net(images)
    assert torch.equal(layer_inputs[0], images[:, [2, 1, 0]])
    assert torch.equal(net.layer5.block1.reduce.bn.running_mean, before)
    white = (torch.ones(3) - torch.tensor(net.mean)) / torch.tensor(net.std)
    torch.testing.assert_close(white, 255 - torch.tensor([122.675, 116.669, 104.008]))


def test_deeplab_v2_fuses_the_scales_by_their_maximum():
    net = build_segmenter("tiny", 3, head="deeplab-v2").eval()
    with torch.no_grad():
        full, three_quarters, half, fused = net.forward_training(torch.randn(1, 3, 64, 64))
    upsampled = [torch.nn.functional.interpolate(logits, size=full.shape[2:], mode="bilinear", align_corners=False)
                 for logits in (three_quarters, half)]
    torch.testing.assert_close(fused, torch.maximum(torch.maximum(full, upsampled[1]), upsampled[0]))


def test_large_fov_on_resnet38_has_the_published_size():
    with torch.device("meta"):
        net = build_segmenter("resnet38", 21)
        logits = net(torch.zeros(1, 3, 64, 80))
    assert logits.shape == (1, 21, 8, 10) and net.head == "large-fov"
    layers = [(layer.in_channels, layer.out_channels, layer.kernel_size, layer.dilation, layer.padding)
              for layer in (net.decoder[0], net.decoder[2])]
    assert layers == [(4096, 512, (3, 3), (12, 12), (12, 12)), (512, 21, (3, 3), (12, 12), (12, 12))]
    assert sum(parameter.numel() for parameter in net.parameters()) == 124_042_581


def test_large_fov_recipe_freezes_the_published_parameters():
    """Published: conv1a and every BatchNorm with its statistics; b2 and later layers are trained, and dropout is on."""
    with torch.device("meta"):
        net = build_segmenter("resnet38", 21)
    net.backbone.freeze("conv1a")
    set_training_mode(net, "all")
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    norms = {name for name, module in net.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert frozen == {"backbone.conv1a.weight"} | {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    assert sum(net.get_parameter(name).numel() for name in frozen) == 49_472
    for name, module in net.named_modules():
        assert module.training != (name in norms or name == "backbone.conv1a"), name
    dropouts = [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout2d)]
    assert dropouts == [0.3, 0.3, 0.5, 0.5]


def test_large_fov_has_the_published_initialisation():
    torch.manual_seed(0)
    net = build_segmenter("tiny", 21, head="large-fov")
    for layer in (net.decoder[0], net.decoder[2]):
        fan_in, fan_out = layer.in_channels * 9, layer.out_channels * 9
        bounds = {"weight": (6 / (fan_in + fan_out)) ** 0.5, "bias": fan_in ** -0.5}
        for kind, bound in bounds.items():
            values = getattr(layer, kind).detach()
            assert 0.8 * bound < values.abs().max() <= bound
            # The standard deviation of a uniform distribution is bound / sqrt(3), and that of n values differs from it
            # by about 1 / sqrt(n).
            assert values.std().item() == pytest.approx(bound / 3**0.5, rel=4 * len(values.flatten()) ** -0.5)


def test_large_fov_adapts_to_the_channels_of_any_backbone():
    net = build_segmenter("timm:resnet18", 4, head="large-fov", stride=16)
    assert (net.decoder[0].in_channels, net.stride) == (512, 16)
    assert net(torch.zeros(1, 3, 64, 96)).shape == (1, 4, 4, 6)


def test_unknown_and_unsupported_heads_are_a_usage_error():
    with pytest.raises(UsageError, match="deeplab-light, deeplab-v2, large-fov"):
        build_segmenter("tiny", 3, head="unet")
    with pytest.raises(UsageError, match="Use --head deeplab-light"):
        build_segmenter("timm:vit_tiny_patch16_224", 3, head="deeplab-v2")
