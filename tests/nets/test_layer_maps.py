"""Layer outputs as maps: inferred layouts, Grad-CAM in networks of several families, and layers without a gradient."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from stages.cams.gradcam import compute_cams
from stages.errors import UsageError
from stages.nets.layer_maps import LayerMapExtractor, OutputLayout, infer_layout
from stages.nets.library_classifier import find_layer, reshape_to_maps

SIZE = (128, 160)


@pytest.mark.parametrize(("shapes", "expected"), [
    (((1, 64, 16, 20), (1, 64, 32, 20), (1, 64, 16, 40)), OutputLayout("NCHW")),
    (((1, 16, 20, 64), (1, 32, 20, 64), (1, 16, 40, 64)), OutputLayout("NHWC")),
    (((1, 16, 16, 16), (1, 16, 32, 16), (1, 16, 16, 32)), OutputLayout("NCHW")),
    (((1, 80, 7), (1, 160, 7), (1, 160, 7)), OutputLayout("NLC", 0, 16.0)),
    (((1, 85, 7), (1, 165, 7), (1, 165, 7)), OutputLayout("NLC", 5, 16.0)),
    (((1, 7, 81), (1, 7, 161), (1, 7, 161)), OutputLayout("NCL", 1, 16.0)),
    (((1, 3, 81, 64), (1, 3, 161, 64), (1, 3, 161, 64)), None),  # heads of an attention
    (((20, 49, 7), (40, 49, 7), (40, 49, 7)), None),  # windows in the batch
    (((4, 80, 7), (4, 160, 7), (4, 160, 7)), None),  # MobileViT: every other cell in a row of the batch
    (((1, 7), (1, 7), (1, 7)), None),
    (((1, 1, 7), (1, 1, 7), (1, 1, 7)), None),  # a class token alone
    (((1, 64, 1, 1), (1, 64, 1, 1), (1, 64, 1, 1)), None),
    (((1, 81, 7), (1, 161, 7), (1, 151, 7)), None),
])
def test_layout_is_inferred_from_shapes(shapes, expected):
    assert infer_layout(*shapes, SIZE) == expected


def test_reshapes_outputs_of_networks_of_fixed_size():
    tokens = torch.arange(2 * 12 * 3).reshape(2, 12, 3)
    for prefix in (0, 1, 2, 5):
        maps = reshape_to_maps(torch.cat([torch.full((2, prefix, 3), -1), tokens], 1), nn.Identity(), (48, 64))
        assert maps.shape == (2, 3, 3, 4)
        assert torch.equal(maps.flatten(2).transpose(1, 2), tokens)
    maps = torch.zeros(1, 6, 8, 4)
    assert reshape_to_maps(maps, nn.Identity(), (48, 64)).shape == (1, 4, 6, 8)
    assert reshape_to_maps(maps.permute(0, 3, 1, 2), nn.Identity(), (48, 64)).shape == (1, 4, 6, 8)
    with pytest.raises(UsageError, match="no map"):
        reshape_to_maps(torch.zeros(2, 7, 5), nn.Identity(), (48, 64))
    for single in ((2, 1, 5), (2, 5, 1, 1), (2, 1, 1, 5)):
        with pytest.raises(UsageError, match="no map"):
            reshape_to_maps(torch.zeros(single), nn.Identity(), (48, 48))


def build_net(name: str) -> nn.Module:
    """Build a seeded timm network with three classes."""
    torch.manual_seed(0)
    options = {"vit": {"dynamic_img_size": True, "depth": 2, "embed_dim": 24, "num_heads": 2},
               "swin": {"strict_img_size": False, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}}
    net = timm.create_model(name, num_classes=3, **options.get(name.split("_")[0], {})).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return net.double()


VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
CASES = [(VIT, "patch_embed", (4, 3), 24), (VIT, "patch_embed.proj", (4, 3), 24), (VIT, "blocks.0", (4, 3), 24),
         (VIT, "blocks.1.norm1", (4, 3), 24), (VIT, "blocks.0.mlp.fc1", (4, 3), 96),
         (SWIN, "patch_embed", (16, 12), 24), (SWIN, "layers.0", (16, 12), 24), (SWIN, "norm", (8, 6), 48),
         ("convnext_atto", "stages.0", (16, 12), 40), ("convnext_atto", "stages.0.blocks.0.norm", (16, 12), 40),
         ("convnext_atto", "stages.0.blocks.0.mlp.fc1", (16, 12), 160),
         ("mobilenetv3_small_050", "blocks.2", (4, 3), 24)]


@pytest.mark.parametrize(("name", "layer", "grid", "channels"), CASES, ids=lambda value: str(value))
def test_cams_of_each_layout_match_grad_cam_by_hand(name, layer, grid, channels):
    net, ids = build_net(name), torch.tensor([1, 3]).numpy()
    extractor = LayerMapExtractor(net, find_layer(net, layer), 32)
    images = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ((_, maps, _),) = compute_cams(extractor, [images], flip=False, choose_classes=lambda index, scores: ids)
    assert maps.shape == (2, *grid)
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    handle = find_layer(net, layer).register_forward_hook(record)
    logits = net(images)
    handle.remove()
    for row, class_id in enumerate(ids):
        (gradient,) = torch.autograd.grad(logits[0, class_id - 1], outputs[0], retain_graph=True)
        expected = compute_grad_cam_by_hand(outputs[0].detach()[0], gradient[0], grid, channels)
        torch.testing.assert_close(maps[row].double(), expected, rtol=1e-5, atol=1e-6)


def compute_grad_cam_by_hand(features: Tensor, gradient: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    """Return the map (h, w) by loops over the cells; no other side of `features` may be as long as the channels."""
    axis = [index for index, length in enumerate(features.shape) if length == channels][-1 if features.ndim == 2 else 0]
    if features.ndim == 3 and features.shape[-1] == channels:
        axis = 2
    flat = features.movedim(axis, -1).reshape(-1, channels)[-grid[0] * grid[1]:]
    flat_gradient = gradient.movedim(axis, -1).reshape(-1, channels)[-grid[0] * grid[1]:]
    weights = sum(flat_gradient) / len(flat_gradient)
    cam = torch.stack([(weights * cell).sum() for cell in flat]).clamp(min=0).reshape(grid)
    return cam / cam.max() if cam.max() > 0 else cam


@pytest.mark.parametrize("layer", ["blocks.1", "norm", "blocks.1.norm2", "blocks.1.mlp", "blocks"])
def test_layer_whose_patches_have_no_gradient_is_an_error(layer):
    net = build_net("vit_tiny_patch16_224")
    extractor = LayerMapExtractor(net, find_layer(net, layer), 32)
    with pytest.raises(UsageError, match=r"no gradient .*\. Use for example --layer blocks\.1\.norm1"):
        compute_cams(extractor, [torch.randn(1, 3, 64, 64).double()], flip=False,
                     choose_classes=lambda index, scores: torch.tensor([1]).numpy())


class FixedSizeNet(nn.Module):
    """A network for images of 32 x 32 pixels only, with a class token before its patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 32, 32)}
        self.stem, self.tokens, self.head = nn.Conv2d(3, 4, 8, 8), nn.Identity(), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        assert images.shape[2:] == (32, 32), "the size is wrong"
        patches = self.stem(images).flatten(2).transpose(1, 2)
        return self.head(self.tokens(torch.cat([patches[:, :1], patches], 1))[:, 1:].mean(1))


def test_network_of_fixed_size():
    torch.manual_seed(0)
    net = FixedSizeNet().eval().requires_grad_(False)
    images, ids = torch.randn(1, 3, 32, 32), torch.tensor([1]).numpy()
    stem_cams, token_cams = (
        compute_cams(LayerMapExtractor(net, layer, 32), [images], flip=False,
                     choose_classes=lambda index, scores: ids)[0][1]
        for layer in (net.stem, net.tokens))
    assert stem_cams.shape == (1, 4, 4) and stem_cams.any()
    torch.testing.assert_close(stem_cams, token_cams, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match=r"no images of 32 x 64 pixels \(the size is wrong\)\. Resize .* to 32 x 32"):
        compute_cams(LayerMapExtractor(net, net.stem, 32), [torch.randn(1, 3, 32, 64)], flip=False,
                     choose_classes=lambda index, scores: ids)


class DyingReluNet(nn.Module):
    """A network whose ReLU is dead for dark images, or whose output is always 0 with `is_dead`."""

    def __init__(self, is_dead: bool = False) -> None:
        super().__init__()
        self.first, self.is_dead = nn.Conv2d(3, 4, 1, bias=False), is_dead
        self.classifier = nn.Conv2d(4, 2, 1, bias=False)
        nn.init.ones_(self.first.weight)
        nn.init.ones_(self.classifier.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits = self.classifier(self.first(images).relu()).mean((2, 3))
        return logits * 0 if self.is_dead else logits


def test_image_without_a_gradient_gives_empty_maps():
    net = DyingReluNet().eval().requires_grad_(False)
    extractor = LayerMapExtractor(net, net.first, 32)
    ids = torch.tensor([1, 2]).numpy()
    ((_, maps, _),) = compute_cams(extractor, [-torch.ones(1, 3, 32, 32)], flip=False,
                                   choose_classes=lambda index, scores: ids)
    assert maps.shape == (2, 32, 32) and not maps.any()
    batch = torch.stack([-torch.ones(3, 32, 32), torch.ones(3, 32, 32)])
    results = compute_cams(extractor, [batch], flip=False, choose_classes=lambda index, scores: ids)
    assert [bool(maps.any()) for _, maps, _ in results] == [False, True]


def test_no_layer_is_suggested_for_a_network_without_any_gradient():
    net = DyingReluNet(is_dead=True).eval().requires_grad_(False)
    with pytest.raises(UsageError, match="Check the weights"):
        compute_cams(LayerMapExtractor(net, net.first, 32), [torch.ones(1, 3, 32, 32)], flip=False,
                     choose_classes=lambda index, scores: torch.tensor([1]).numpy())


def test_layer_that_does_not_run_is_an_error():
    net = DyingReluNet().eval().requires_grad_(False)
    net.add_module("unused", nn.Conv2d(3, 2, 1))
    with pytest.raises(UsageError, match="forward pass does not reach it"):
        LayerMapExtractor(net, net.get_submodule("unused"), 32)(torch.zeros(1, 2, 32, 32), (32, 32))
