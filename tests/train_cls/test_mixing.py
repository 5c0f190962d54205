"""Mixed samples: what is mixed with what share, where, and that the regularisers have gradients."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.errors import UsageError
from stages.kernels.fmix_mask import fmix_mask, frequencies, grey_image
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.train_cls import cam, fmix, manifold_mixup, mixing, mixup
from stages.train_cls.config import FmixConfig, ManifoldConfig, MixupConfig
from stages.train_cls.regularisers import concentration, self_entropy, spread


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


def forced(monkeypatch, share: float, order: list[int], *modules) -> None:
    """Let the draws be these."""
    for module in modules:
        monkeypatch.setattr(module, "draw_share", lambda alpha: share)
    monkeypatch.setattr(torch, "randperm", lambda count: torch.tensor(order))


def test_mixup_is_the_loss_of_the_mixed_image(monkeypatch, net, batch):
    forced(monkeypatch, 0.3, [1, 0, 3, 2], mixup)
    config = MixupConfig(lambda_ent=0.5, lambda_con=0.25)
    told = mixup.loss(net, batch, config)
    mixed = 0.3 * batch["image"] + 0.7 * batch["image"][[1, 0, 3, 2]]
    soft = 0.3 * batch["labels"].float() + 0.7 * batch["labels"][[1, 0, 3, 2]].float()
    torch.testing.assert_close(told["classification"], F.multilabel_soft_margin_loss(net(mixed), soft))
    torch.testing.assert_close(told["entropy"], self_entropy(net(mixed)))
    maps = net.maps(mixed)
    expected = 0.3 * concentration(maps, batch["labels"]) + 0.7 * concentration(maps, batch["labels"][[1, 0, 3, 2]])
    torch.testing.assert_close(told["concentration"], expected)
    total = told["classification"] + 0.5 * told["entropy"] + 0.25 * told["concentration"]
    torch.testing.assert_close(told["loss"], total)


def test_without_mixing_and_regularisers_it_is_the_plain_loss(monkeypatch, net, batch):
    plain = cam.loss(net, batch, None)["loss"]
    for module, config in ((mixup, MixupConfig()), (fmix, FmixConfig()), (manifold_mixup, ManifoldConfig())):
        forced(monkeypatch, 1.0, [3, 2, 1, 0], module)
        told = module.loss(net, batch, replace(config, lambda_ent=0.0, lambda_con=0.0))
        torch.testing.assert_close(told["loss"], plain)
        assert set(told) == {"loss", "classification", "predicted"}


def test_fmix_counts_the_share_of_the_mask_and_not_the_one_drawn(monkeypatch, net, batch):
    forced(monkeypatch, 0.4321, [1, 2, 3, 0], fmix)
    shares = []
    monkeypatch.setattr(fmix, "mixed_loss", lambda net, features, labels, other, share, config: shares.append(share))
    fmix.loss(net, batch, FmixConfig())
    ones = shares[0] * 48 * 64
    assert ones == pytest.approx(round(ones), abs=1e-3)
    assert abs(shares[0] - 0.4321) <= 1 / (48 * 64)


@pytest.mark.parametrize("place", ["input", "block2"])
def test_manifold_mixup_mixes_where_it_is_told(monkeypatch, net, batch, place):
    forced(monkeypatch, 0.3, [1, 0, 3, 2], manifold_mixup)
    blocks = net.backbone.blocks
    name = place if place == "input" else blocks[1]
    told = manifold_mixup.loss(net, batch, ManifoldConfig(mix_at=name, lambda_ent=0.0, lambda_con=0.0))
    kept = {}
    if place == "input":
        logits = net(0.3 * batch["image"] + 0.7 * batch["image"][[1, 0, 3, 2]])
    else:
        modules = dict(net.backbone.named_modules())
        inner = modules[net.backbone.block_prefixes[name][-1]]
        handle = inner.register_forward_hook(lambda m, i, output: kept.update(map=output))
        net(batch["image"])
        handle.remove()
        mixed = 0.3 * kept["map"] + 0.7 * kept["map"][[1, 0, 3, 2]]
        handle = inner.register_forward_hook(lambda m, i, output: mixed)
        logits = net(batch["image"])
        handle.remove()
    soft = 0.3 * batch["labels"].float() + 0.7 * batch["labels"][[1, 0, 3, 2]].float()
    torch.testing.assert_close(told["loss"], F.multilabel_soft_margin_loss(logits, soft))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("backbone", ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:resnet18",
                                      "timm:vit_tiny_patch16_224"])
def test_every_block_of_any_backbone_can_be_mixed(backbone, batch):
    net = Classifier(build_backbone(backbone), 3)
    for place in manifold_mixup.stages_to_mix(net, ManifoldConfig()):
        told = manifold_mixup.loss(net, {**batch, "image": F.interpolate(batch["image"], (64, 64))},
                                   ManifoldConfig(mix_at=place))
        assert torch.isfinite(told["loss"])


@pytest.mark.parametrize(("backbone", "last", "nowhere"), [
    ("timm:convnext_atto", "stages.2", "head"), ("timm:mobilenetv3_small_050", "blocks.4", "conv_head"),
    ("timm:hrnet_w18_small", "layer1", "stage2")])
def test_blocks_that_no_image_passes_or_without_a_single_map_are_not_mixed(backbone, last, nowhere):
    net = Classifier(build_backbone(backbone), 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    assert manifold_mixup.stages_to_mix(net, ManifoldConfig())[-1] == last
    with pytest.raises(UsageError, match=f"--mix-at {nowhere}: the network has no single map there; give some of "):
        manifold_mixup.stages_to_mix(net, ManifoldConfig(mix_at=f"input,{nowhere}"))
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_unknown_stage_names_the_known(net):
    with pytest.raises(UsageError, match=f"no such stage; give some of input, {net.backbone.blocks[0]}"):
        manifold_mixup.stages_to_mix(net, ManifoldConfig(mix_at="block9"))


def test_draws_are_a_function_of_torchs_seed(net, batch):
    for module, config in ((mixup, MixupConfig()), (fmix, FmixConfig()), (manifold_mixup, ManifoldConfig())):
        told = []
        for seed in (5, 5, 6):
            torch.manual_seed(seed)
            told.append(float(module.loss(net, batch, config)["loss"]))
        assert told[0] == told[1] != told[2]


def lowest(config: type, name: str) -> float:
    """Return the smallest value that a setting may have."""
    return next(one.metadata["low"] for one in fields(config) if one.name == name)


@pytest.mark.parametrize("alpha", [0.2, lowest(MixupConfig, "alpha"), lowest(FmixConfig, "alpha"),
                                   lowest(ManifoldConfig, "alpha")])
def test_shares_are_beta(alpha):
    torch.manual_seed(0)
    drawn = np.array([mixing.draw_share(alpha) for _ in range(2000)])
    assert abs(drawn.mean() - 0.5) < 0.03
    assert abs(drawn.var() - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_the_steepest_noise_is_finite():
    decay = next(one.metadata["high"] for one in fields(FmixConfig) if one.name == "decay")
    size = (1024, 1024)
    noise = np.random.default_rng(0).standard_normal((*frequencies(size).shape, 2))
    assert np.isfinite(grey_image(noise, size, decay=decay)).all()


@pytest.mark.parametrize("size", [(8, 8), (31, 50), (300, 200)])
def test_fmix_masks_have_the_share_asked_for(size):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.25, 0.7, 1.0):
        mask = fmix_mask(size, share, rng)
        assert mask.shape == size
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert abs(mask.sum() - share * mask.size) < 1


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


def test_spread_is_right_on_maps_that_are_not_square():
    maps = torch.zeros(1, 1, 3, 7)
    maps[0, 0, 1, 1] = maps[0, 0, 1, 5] = 2.0
    assert float(spread(maps, "paper")) == pytest.approx(4.0)  # two cells left and right of the centre
    torch.testing.assert_close(spread(maps, "paper"), spread(maps.transpose(-1, -2), "paper"))
    torch.testing.assert_close(spread(maps, "scops"), spread(maps.transpose(-1, -2), "scops"))


def test_a_mask_of_one_row():
    rng = np.random.default_rng(0)
    assert fmix_mask((1, 24), 0.5, rng).sum() == 12
    with pytest.raises(ValueError, match="1 x 24 has no second row"):
        fmix_mask((1, 24), 0.5, rng, spectrum="released")
