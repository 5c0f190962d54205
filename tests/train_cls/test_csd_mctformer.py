"""CSD on MCTformer: from images to the loss and its gradient, against both written out in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from plain_csd import Terms, csd_terms
from small_vit import HEADS, small_vit
from stages.nets.class_tokens import ClassTokenBackbone
from stages.nets.mctformer import MCTformer
from stages.train_cls.config import CsdMctformerConfig
from stages.train_cls.csd import class_maps, loss

# In float64 the two ways to the same sums differ by rounding alone.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
MAPS = ("refined", "fused", "patch-logits")
CASES = [("v1", "refined"), ("v1", "fused"), *((version, maps) for version in ("v2", "plus") for maps in MAPS)]
N_CLASSES, SIDE = 3, 64


def settings(version: str, maps: str, **more) -> CsdMctformerConfig:
    return CsdMctformerConfig(version=version, csd_maps=maps, contrast=0.0, **more)


def net_of(version: str) -> MCTformer:
    torch.manual_seed(3)
    net = MCTformer(ClassTokenBackbone(small_vit(depth=4, side=SIDE), N_CLASSES), version).double()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.2)
    return net.train()


def released_state(net: MCTformer) -> dict[str, Tensor]:
    """Return the parameters themselves under released names, so that gradients reach them."""
    names = {name.removeprefix("backbone.model."): parameter for name, parameter in net.named_parameters()}
    return {name.replace("patch_head.", "head."): parameter for name, parameter in names.items()}


def batch_of(side: int = SIDE) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    names = ("image", "single", "pasted_object", "pasted_background")
    images = {name: torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64) for name in names}
    masks = {name: torch.zeros(2, side, side, dtype=torch.uint8) for name in ("object", "surroundings")}
    masks["object"][0, :40, 10:] = masks["object"][1, 16:48] = 1
    masks["surroundings"][0, 32:] = masks["surroundings"][1, :, :33] = 1
    return {**images, **masks, "labels": torch.tensor([[1, 0, 1], [0, 1, 0]]), "source": torch.tensor([1, 2]),
            "back": torch.zeros(2, 2, 3, dtype=torch.float64), "paired": torch.ones(2, dtype=torch.uint8)}


def wanted_terms(net: MCTformer, config: CsdMctformerConfig, batch: dict[str, Tensor]) -> Terms:
    return csd_terms(released_state(net), config.version, batch, HEADS, maps=config.csd_maps,
                     layers=config.csd_layers, constant=config.constant, share=config.csd_maps != "refined")


def gradients(net: MCTformer, scalar: Tensor) -> dict[str, Tensor]:
    parameters = dict(net.named_parameters())
    found = torch.autograd.grad(scalar, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: torch.zeros_like(parameters[name]) if gradient is None else gradient
            for name, gradient in zip(parameters, found, strict=True)}


@pytest.mark.parametrize("layers", [3, 1])
@pytest.mark.parametrize(("version", "maps"), CASES)
def test_the_loss_and_its_gradient_from_images(version, maps, layers):
    net, config, batch = net_of(version), settings(version, maps, csd_layers=layers), batch_of()
    told, terms = loss(net, batch, config), wanted_terms(net, config, batch)
    for name, wanted in terms._asdict().items():
        torch.testing.assert_close(told[name], wanted, **CLOSE, msg=name)
        assert float(wanted) > 1e-7, name
    total = terms.classification + 0.01 * terms.foreground + 0.1 * terms.background
    torch.testing.assert_close(told["loss"], total, **CLOSE)
    ours, theirs = gradients(net, told["loss"]), gradients(net, total)
    for name, wanted in theirs.items():
        torch.testing.assert_close(ours[name], wanted, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize(("version", "maps"), CASES)
def test_the_consistency_teaches_the_attention_and_the_patch_classifier_only_by_its_logits(version, maps):
    net, config = net_of(version), settings(version, maps)
    told = loss(net, batch_of(), config)
    for term in ("foreground", "background"):
        found = gradients(net, told[term])
        head = [float(gradient.abs().max()) for name, gradient in found.items() if name.startswith("patch_head")]
        assert all((size > 0) == (maps == "patch-logits") for size in head), term
        assert len(head) == (0 if version == "v1" else 2)
        last = float(found["backbone.model.blocks.3.attn.qkv.weight"].abs().max())
        assert last > 0, f"{term}: the last layer's attention learns"


@pytest.mark.parametrize("version", ["v1", "v2", "plus"])
def test_every_view_is_refined_by_its_own_patch_attention(version):
    """A view's maps do not depend on what else is in the batch, and refined maps are fused ones times its affinity."""
    net, batch = net_of(version).eval(), batch_of()
    config = settings(version, "refined")
    together = class_maps(net, torch.cat([batch["pasted_object"], batch["single"]]), config)
    alone = class_maps(net, batch["single"], config)
    torch.testing.assert_close(together[2:], alone, **CLOSE)
    fused = class_maps(net, batch["single"], replace(config, csd_maps="fused"))
    affinity = net.attention(batch["single"]).mean(2).sum(0)[:, N_CLASSES:, N_CLASSES:]
    torch.testing.assert_close(alone.flatten(2), torch.einsum("bij,bcj->bci", affinity, fused.flatten(2)), **CLOSE)
    swapped = torch.einsum("bij,bcj->bci", affinity.flip(0), fused.flatten(2))
    assert float((alone.flatten(2) - swapped).abs().max()) > 1e-3


def test_crops_that_are_no_whole_patches():
    net, config, batch = net_of("v2"), settings("v2", "refined"), batch_of(72)
    told = loss(net, batch, config)
    padded = {name: nn.functional.pad(tensor, (0, 8, 0, 8)) if tensor.ndim >= 3 and name != "back" else tensor
              for name, tensor in batch.items()}
    terms = wanted_terms(net, config, padded)
    torch.testing.assert_close(told["foreground"], terms.foreground, **CLOSE)
    torch.testing.assert_close(told["background"], terms.background, **CLOSE)
