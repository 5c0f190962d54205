from __future__ import annotations

import pytest
import torch

from nets.reference_keys import keys_of, shapes
from stages.errors import UsageError
from stages.nets.deeplab_light import skip_level
from stages.nets.segmenter import build_segmenter


@pytest.mark.parametrize(("name", "stride", "size"), [
    ("tiny", None, (17, 25)), ("mobilenet_v2", 16, (9, 13)), ("timm:resnet18", None, (9, 13)),
    ("timm:vit_tiny_patch16_224", None, (5, 7)),
])  # fmt: skip
def test_the_light_head_gives_logits_at_the_skip(name, stride, size):
    net = build_segmenter(name, 6, stride=stride)
    logits = net(torch.randn(1, 3, 65, 97))
    assert logits.shape == (1, 6, *size)
    assert net.stride == {17: 4, 9: 8, 5: 16}[size[0]]
    assert net.head == "deeplab-light" and net.bgr is False and len(net.mean) == len(net.std) == 3
    assert [len(each) for each in net.training_outputs(torch.randn(2, 3, 64, 64))] == [2]
    heads, backbone = ({id(each) for each in group} for group in (net.head_parameters(), net.backbone.parameters()))
    assert not heads & backbone and len(heads | backbone) == len(list(net.parameters()))


def test_the_skip_is_at_stride_8_or_else_the_nearest_finer_map():
    assert skip_level((4, 8, 16, 32)) == 1
    assert skip_level((4, 8)) == 0
    assert skip_level((4, 16)) == 0
    assert skip_level((4, 8, 16)) == 1
    assert skip_level((16,)) is None


def test_deeplab_v2_has_the_keys_of_the_field_and_fuses_three_scales():
    wanted = keys_of("deeplabv2_resnet101")
    with torch.device("meta"):
        net = build_segmenter("deeplabv2_resnet101", wanted["aspp.c0.weight"][0])
        outputs = net.training_outputs(torch.zeros(1, 3, 321, 321))
    assert shapes(net.state_dict()) == wanted
    assert [tuple(each.shape[2:]) for each in outputs] == [(41, 41), (31, 31), (21, 21), (41, 41)]
    assert net.bgr and net.stride == 8 and net.head == "deeplab-v2"
    net.backbone.freeze("layer2")
    assert not net.layer2.block1.reduce.conv.weight.requires_grad and net.layer3.block1.reduce.conv.weight.requires_grad


def test_deeplab_v2_reads_blue_first_and_keeps_its_statistics():
    net = build_segmenter("deeplabv2_resnet101", 3)
    seen = []
    net.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(1, 3, 33, 33)
    net.train()
    before = net.layer5.block1.reduce.bn.running_mean.clone()
    with torch.no_grad():
        net(images)
    assert torch.equal(seen[0], images[:, [2, 1, 0]])
    assert torch.equal(net.layer5.block1.reduce.bn.running_mean, before)
    white = (torch.ones(3) - torch.tensor(net.mean)) / torch.tensor(net.std)
    torch.testing.assert_close(white, 255 - torch.tensor([122.675, 116.669, 104.008]))


def test_the_maximum_is_taken_over_the_scales():
    net = build_segmenter("tiny", 3, head="deeplab-v2").eval()
    with torch.no_grad():
        full, three_quarters, half, fused = net.training_outputs(torch.randn(1, 3, 64, 64))
    grow = torch.nn.functional.interpolate
    wanted = torch.maximum(full, grow(half, size=full.shape[2:], mode="bilinear", align_corners=False))
    wanted = torch.maximum(wanted, grow(three_quarters, size=full.shape[2:], mode="bilinear", align_corners=False))
    torch.testing.assert_close(fused, wanted)


def test_large_fov_on_resnet38():
    with torch.device("meta"):
        net = build_segmenter("resnet38", 21)
        logits = net(torch.zeros(1, 3, 64, 80))
    assert logits.shape == (1, 21, 8, 10) and net.head == "large-fov"
    first = net.decoder[0]
    assert (first.in_channels, first.out_channels, first.dilation) == (4096, 512, (12, 12))


def test_unknown_heads_are_a_usage_error():
    with pytest.raises(UsageError, match="deeplab-light, deeplab-v2, large-fov"):
        build_segmenter("tiny", 3, head="unet")
    with pytest.raises(UsageError, match="take deeplab-light"):
        build_segmenter("timm:vit_tiny_patch16_224", 3, head="deeplab-v2")
