"""CSD on MCTformer: loss and gradient from images, compared with a plain implementation in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from plain_csd import LossTerms, compute_csd_terms
from small_vit import HEADS, small_vit
from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.mctformer import MCTformer
from stages.train_cls.config import CsdMctformerConfig
from stages.train_cls.csd import compute_class_maps, loss

# In float64, the two implementations differ by rounding only.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
MAPS = ("refined", "fused", "patch-logits")
CASES = [("v1", "refined"), ("v1", "fused"), *((version, maps) for version in ("v2", "plus") for maps in MAPS)]
N_CLASSES, SIDE = 3, 64


def build_config(version: str, maps: str, **settings) -> CsdMctformerConfig:
    return CsdMctformerConfig(version=version, csd_maps=maps, contrast=0.0, **settings)


def build_net(version: str) -> MCTformer:
    torch.manual_seed(3)
    net = MCTformer(ClassTokenBackbone(small_vit(depth=4, side=SIDE), N_CLASSES), version).double()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
    return net.train()


def rename_as_released(net: MCTformer) -> dict[str, Tensor]:
    """Return the parameters (not copies, for the gradients) under the names of the released code."""
    names = {name.removeprefix("backbone.model."): parameter for name, parameter in net.named_parameters()}
    return {name.replace("patch_head.", "head."): parameter for name, parameter in names.items()}


def build_batch(side: int = SIDE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    names = ("image", "single", "pasted_object", "pasted_background")
    images = {name: torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64) for name in names}
    masks = {name: torch.zeros(2, side, side, dtype=torch.uint8) for name in ("object", "surroundings")}
    masks["object"][0, :40, 10:] = masks["object"][1, 16:48] = 1
    masks["surroundings"][0, 32:] = masks["surroundings"][1, :, :33] = 1
    return {**images, **masks, "labels": torch.tensor([[1, 0, 1], [0, 1, 0]]), "pasted_class": torch.tensor([1, 2]),
            "inverse_affine": torch.zeros(2, 2, 3, dtype=torch.float64), "paired": torch.ones(2, dtype=torch.uint8)}


def compute_expected_terms(net: MCTformer, config: CsdMctformerConfig, batch: dict[str, Tensor]) -> LossTerms:
    return compute_csd_terms(rename_as_released(net), config.version, batch, HEADS, maps=config.csd_maps,
                     layers=config.csd_layers, constant=config.constant, share=config.csd_maps != "refined")


def compute_gradients(net: MCTformer, scalar: Tensor) -> dict[str, Tensor]:
    parameters = dict(net.named_parameters())
    parameter_gradients = torch.autograd.grad(scalar, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: torch.zeros_like(parameters[name]) if gradient is None else gradient
            for name, gradient in zip(parameters, parameter_gradients, strict=True)}


@pytest.mark.parametrize("layers", [3, 1])
@pytest.mark.parametrize(("version", "maps"), CASES)
def test_loss_and_gradient_equal_the_plain_implementation(version, maps, layers):
    net, config, batch = build_net(version), build_config(version, maps, csd_layers=layers), build_batch()
    losses, terms = loss(net, batch, config), compute_expected_terms(net, config, batch)
    for name, expected in terms._asdict().items():
        torch.testing.assert_close(losses[name], expected, **CLOSE, msg=name)
        assert float(expected) > 1e-7, name
    total = terms.classification + 0.01 * terms.foreground + 0.1 * terms.background
    torch.testing.assert_close(losses["loss"], total, **CLOSE)
    ours, theirs = compute_gradients(net, losses["loss"]), compute_gradients(net, total)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize(("version", "maps"), CASES)
def test_consistency_trains_attention_and_the_patch_classifier_by_logits_only(version, maps):
    net, config = build_net(version), build_config(version, maps)
    losses = loss(net, build_batch(), config)
    for term in ("foreground", "background"):
        parameter_gradients = compute_gradients(net, losses[term])
        sizes = [float(gradient.abs().max()) for name, gradient in parameter_gradients.items()
                 if name.startswith("patch_head")]
        assert all((size > 0) == (maps == "patch-logits") for size in sizes), term
        assert len(sizes) == (0 if version == "v1" else 2)
        attention_size = float(parameter_gradients["backbone.model.blocks.3.attn.qkv.weight"].abs().max())
        assert attention_size > 0, f"{term}: no gradient in the last layer's attention"


@pytest.mark.parametrize("version", ["v1", "v2", "plus"])
def test_each_view_is_refined_by_its_own_patch_attention(version):
    """The maps of a view are independent of the batch, and refined maps are fused ones times the view's affinity."""
    net, batch = build_net(version).eval(), build_batch()
    config = build_config(version, "refined")
    batched = compute_class_maps(net, torch.cat([batch["pasted_object"], batch["single"]]), config)
    alone = compute_class_maps(net, batch["single"], config)
    torch.testing.assert_close(batched[2:], alone, **CLOSE)
    fused = compute_class_maps(net, batch["single"], replace(config, csd_maps="fused"))
    affinity = net.forward_attention(batch["single"]).mean(2).sum(0)[:, N_CLASSES:, N_CLASSES:]
    torch.testing.assert_close(alone.flatten(2), torch.einsum("bij,bcj->bci", affinity, fused.flatten(2)), **CLOSE)
    swapped = torch.einsum("bij,bcj->bci", affinity.flip(0), fused.flatten(2))
    assert float((alone.flatten(2) - swapped).abs().max()) > 1e-3


def test_crops_not_divisible_into_patches():
    net, config, batch = build_net("v2"), build_config("v2", "refined"), build_batch(72)
    losses = loss(net, batch, config)
    padded = {name: nn.functional.pad(tensor, (0, 8, 0, 8)) if tensor.ndim >= 3 and name != "inverse_affine" else tensor
              for name, tensor in batch.items()}
    terms = compute_expected_terms(net, config, padded)
    torch.testing.assert_close(losses["foreground"], terms.foreground, **CLOSE)
    torch.testing.assert_close(losses["background"], terms.background, **CLOSE)
