"""Mixed samples: the mixing ratio, the layer to mix at, and the gradients of the regularisers."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.errors import UsageError
from stages.kernels.fmix import build_grey_image, compute_frequencies, sample_fmix_mask
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.train_cls import cam, fmix, manifold_mixup, mixing, mixup
from stages.train_cls.config import FmixConfig, ManifoldConfig, MixupConfig
from stages.train_cls.regularisers import compute_map_spread, concentration, self_entropy


@pytest.fixture
def net() -> Classifier:
    torch.manual_seed(0)
    net = Classifier(build_backbone("wsss:tiny"), 3).eval()
    torch.nn.init.normal_(net.classifier.weight)
    return net


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(4, 3, 48, 64, generator=generator), "labels": torch.tensor(
        [[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=torch.uint8)}


def fix_draws(monkeypatch, ratio: float, order: list[int], *modules) -> None:
    """Replace the random draws by these."""
    for module in modules:
        monkeypatch.setattr(module, "draw_mixing_ratio", lambda alpha: ratio)
    monkeypatch.setattr(torch, "randperm", lambda count: torch.tensor(order))


def test_mixup_loss_equals_that_of_the_mixed_image(monkeypatch, net, batch):
    fix_draws(monkeypatch, 0.3, [1, 0, 3, 2], mixup)
    config = MixupConfig(lambda_ent=0.5, lambda_con=0.25)
    losses = mixup.loss(net, batch, config)
    mixed = 0.3 * batch["image"] + 0.7 * batch["image"][[1, 0, 3, 2]]
    soft = 0.3 * batch["labels"].float() + 0.7 * batch["labels"][[1, 0, 3, 2]].float()
    torch.testing.assert_close(losses["classification"], F.multilabel_soft_margin_loss(net(mixed), soft))
    torch.testing.assert_close(losses["entropy"], self_entropy(net(mixed)))
    maps = net.maps(mixed)
    expected = 0.3 * concentration(maps, batch["labels"]) + 0.7 * concentration(maps, batch["labels"][[1, 0, 3, 2]])
    torch.testing.assert_close(losses["concentration"], expected)
    total = losses["classification"] + 0.5 * losses["entropy"] + 0.25 * losses["concentration"]
    torch.testing.assert_close(losses["loss"], total)


def test_loss_without_mixing_and_regularisers_is_the_plain_loss(monkeypatch, net, batch):
    plain = cam.loss(net, batch, None)["loss"]
    for module, config in ((mixup, MixupConfig()), (fmix, FmixConfig()), (manifold_mixup, ManifoldConfig())):
        fix_draws(monkeypatch, 1.0, [3, 2, 1, 0], module)
        losses = module.loss(net, batch, replace(config, lambda_ent=0.0, lambda_con=0.0))
        torch.testing.assert_close(losses["loss"], plain)
        assert set(losses) == {"loss", "classification", "predicted"}


def test_fmix_uses_the_mean_of_the_mask_as_ratio(monkeypatch, net, batch):
    fix_draws(monkeypatch, 0.4321, [1, 2, 3, 0], fmix)
    ratios = []
    monkeypatch.setattr(fmix, "mixed_loss",
                        lambda net, features, labels, other_labels, ratio, config: ratios.append(ratio))
    fmix.loss(net, batch, FmixConfig())
    num_ones = ratios[0] * 48 * 64
    assert num_ones == pytest.approx(round(num_ones), abs=1e-3)
    assert abs(ratios[0] - 0.4321) <= 1 / (48 * 64)


@pytest.mark.parametrize("layer", ["input", "block2"])
def test_manifold_mixup_mixes_at_the_chosen_layer(monkeypatch, net, batch, layer):
    fix_draws(monkeypatch, 0.3, [1, 0, 3, 2], manifold_mixup)
    blocks = net.backbone.blocks
    name = layer if layer == "input" else blocks[1]
    losses = manifold_mixup.loss(net, batch, ManifoldConfig(mix_at=name, lambda_ent=0.0, lambda_con=0.0))
    cached = {}
    if layer == "input":
        logits = net(0.3 * batch["image"] + 0.7 * batch["image"][[1, 0, 3, 2]])
    else:
        modules = dict(net.backbone.named_modules())
        inner = modules[net.backbone.block_prefixes[name][-1]]
        handle = inner.register_forward_hook(lambda _module, _inputs, output: cached.update(map=output))
        net(batch["image"])
        handle.remove()
        mixed = 0.3 * cached["map"] + 0.7 * cached["map"][[1, 0, 3, 2]]
        handle = inner.register_forward_hook(lambda _module, _inputs, output: mixed)
        logits = net(batch["image"])
        handle.remove()
    soft = 0.3 * batch["labels"].float() + 0.7 * batch["labels"][[1, 0, 3, 2]].float()
    torch.testing.assert_close(losses["loss"], F.multilabel_soft_margin_loss(logits, soft))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("backbone", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:resnet18",
                                      "timm:vit_tiny_patch16_224"])
def test_manifold_mixup_at_every_block_of_a_backbone(backbone, batch):
    net = Classifier(build_backbone(backbone), 3)
    for layer in manifold_mixup.select_mixing_layers(net, ManifoldConfig()):
        losses = manifold_mixup.loss(net, {**batch, "image": F.interpolate(batch["image"], (64, 64))},
                                   ManifoldConfig(mix_at=layer))
        assert torch.isfinite(losses["loss"])


@pytest.mark.parametrize(("backbone", "last", "invalid_block"), [
    ("timm:convnext_atto", "stages.2", "head"), ("timm:mobilenetv3_small_050", "blocks.4", "conv_head"),
    ("timm:hrnet_w18_small", "layer1", "stage2")])
def test_blocks_without_a_single_output_map_are_rejected(backbone, last, invalid_block):
    net = Classifier(build_backbone(backbone), 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    assert manifold_mixup.select_mixing_layers(net, ManifoldConfig())[-1] == last
    with pytest.raises(UsageError, match=rf"--mix-at {invalid_block}: this block of the network does not output a "
                       r"single feature map\. Choose from "):
        manifold_mixup.select_mixing_layers(net, ManifoldConfig(mix_at=f"input,{invalid_block}"))
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_unknown_block_error_lists_the_blocks(net):
    with pytest.raises(UsageError, match=rf"no such block\. Choose from input, {net.backbone.blocks[0]}"):
        manifold_mixup.select_mixing_layers(net, ManifoldConfig(mix_at="block9"))


def test_draws_depend_on_the_seed_of_torch_only(net, batch):
    for module, config in ((mixup, MixupConfig()), (fmix, FmixConfig()), (manifold_mixup, ManifoldConfig())):
        values = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            values.append(float(module.loss(net, batch, config)["loss"]))
        assert values[0] == values[1] != values[2]


def get_lowest_value(config: type, name: str) -> float:
    """Return the lowest value that a setting can have."""
    return next(field.metadata["low"] for field in fields(config) if field.name == name)


@pytest.mark.parametrize("alpha", [0.2, get_lowest_value(MixupConfig, "alpha"), get_lowest_value(FmixConfig, "alpha"),
                                   get_lowest_value(ManifoldConfig, "alpha")])
def test_mixing_ratios_follow_the_beta_distribution(alpha):
    torch.manual_seed(0)
    ratios = np.array([mixing.draw_mixing_ratio(alpha) for _ in range(2000)])
    assert abs(ratios.mean() - 0.5) < 0.03
    assert abs(ratios.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_noise_with_the_largest_decay_is_finite():
    decay = next(field.metadata["high"] for field in fields(FmixConfig) if field.name == "decay")
    size = (1024, 1024)
    noise = np.random.default_rng(0).standard_normal((*compute_frequencies(size).shape, 2))
    assert np.isfinite(build_grey_image(noise, size, decay=decay)).all()


@pytest.mark.parametrize("size", [(8, 8), (31, 50), (300, 200)])
def test_fmix_masks_have_the_requested_mean(size):
    rng = np.random.default_rng(0)
    for ratio in (0.0, 0.25, 0.7, 1.0):
        mask = sample_fmix_mask(size, ratio, rng)
        assert mask.shape == size
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert abs(mask.sum() - ratio * mask.size) < 1


def test_entropy_and_concentration_have_gradients_and_survive_empty_maps():
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    for form in ("binary", "sum"):
        (gradient,) = torch.autograd.grad(self_entropy(logits, form), logits)
        assert gradient.abs().max() > 0
    for form in ("scops", "paper"):
        maps = torch.zeros(1, 2, 4, 6, requires_grad=True)
        value = concentration(maps, torch.ones(1, 2), form)
        (gradient,) = torch.autograd.grad(value, maps)
        assert torch.isfinite(gradient).all()


def test_map_spread_of_maps_that_are_not_square():
    maps = torch.zeros(1, 1, 3, 7)
    maps[0, 0, 1, 1] = maps[0, 0, 1, 5] = 2.0
    assert float(compute_map_spread(maps, "paper")) == pytest.approx(4.0)  # two cells left and right of the centre
    torch.testing.assert_close(compute_map_spread(maps, "paper"), compute_map_spread(maps.transpose(-1, -2), "paper"))
    torch.testing.assert_close(compute_map_spread(maps, "scops"), compute_map_spread(maps.transpose(-1, -2), "scops"))


def test_fmix_mask_of_one_row():
    rng = np.random.default_rng(0)
    assert sample_fmix_mask((1, 24), 0.5, rng).sum() == 12
    with pytest.raises(ValueError, match="1 x 24 has no second row"):
        sample_fmix_mask((1, 24), 0.5, rng, spectrum="released")
