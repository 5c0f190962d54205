"""The losses of MCTformer, against sums written out."""

from __future__ import annotations

from math import e, exp, log
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity, multilabel_soft_margin_loss

from small_vit import small_vit
from stages.nets.class_tokens import ClassTokenBackbone
from stages.nets.mctformer import VERSIONS, MCTformer, Outputs
from stages.train_cls.config import MctformerConfig
from stages.train_cls.mctformer import loss, token_contrast

LABELS = torch.tensor([[1.0, 0, 1], [0, 1, 0]])


def tokens_of(layers: int) -> torch.Tensor:
    return torch.randn(layers, 2, 3, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def contrast_by_hand(tokens: torch.Tensor, labels: torch.Tensor) -> float:
    images = []
    for image, row in enumerate(labels.tolist()):
        present, each = [place for place, there in enumerate(row) if there], []
        for layer in tokens[:, image]:
            for own in present:
                near = [float(cosine_similarity(layer[own], other, dim=0)) for other in layer]
                each.append(log(sum(map(exp, near))) - near[own])
        images.append(sum(each) / len(each) if each else 0.0)
    return sum(images) / len(images)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([[0.0, 0, 0], [1, 1, 1]])], ids=["some", "none and all"])
def test_the_contrast_by_hand(labels):
    tokens = tokens_of(4)
    assert float(token_contrast(tokens, labels)) == pytest.approx(contrast_by_hand(tokens, labels), abs=1e-12)
    assert float(token_contrast(5 * tokens, labels)) == pytest.approx(float(token_contrast(tokens, labels)), abs=1e-12)


def test_alike_tokens_cost_ln_c_and_tokens_at_right_angles_the_least_of_three():
    alike, apart = torch.ones(1, 2, 3, 8), torch.eye(3, 8).expand(1, 2, 3, 8)
    assert float(token_contrast(alike, LABELS)) == pytest.approx(log(3))
    assert float(token_contrast(apart, LABELS)) == pytest.approx(log(1 + 2 / e))


def test_no_label_is_no_contrast_and_a_finite_gradient():
    tokens = tokens_of(2).requires_grad_()
    token_contrast(tokens, torch.zeros(2, 3)).backward()
    assert torch.isfinite(tokens.grad).all() and not tokens.grad.any()


class Fixed:
    """A net whose outputs are given."""

    def __init__(self, version: str) -> None:
        self.version = version
        made = torch.Generator().manual_seed(7)
        self.first, self.second = torch.randn(2, 3, generator=made), torch.randn(2, 3, generator=made)

    def outputs(self, _images: torch.Tensor) -> Outputs:
        return Outputs(self.first, None if self.version == "v1" else self.second, tokens_of(4).float())


@pytest.mark.parametrize(("layers", "weight"), [(0, 1.0), (2, 0.5), (0, 0.0)])
@pytest.mark.parametrize("version", ["v1", "v2", "plus"])
def test_what_is_summed(version, layers, weight):
    net = Fixed(version)
    told = loss(net, {"image": torch.zeros(2, 3, 4, 4), "labels": LABELS.to(torch.uint8)},
                SimpleNamespace(contrast=weight, contrast_layers=layers))
    wanted = {"tokens": multilabel_soft_margin_loss(net.first, LABELS)}
    if version != "v1":
        wanted["patches"] = multilabel_soft_margin_loss(net.second, LABELS)
    total = sum(wanted.values())
    if version == "plus" and weight:
        wanted["contrast"] = token_contrast(tokens_of(4)[-layers:].float(), LABELS)
        total = total + weight * wanted["contrast"]
    assert set(told) == {"loss", "predicted", *wanted}
    for name, value in {**wanted, "loss": total}.items():
        torch.testing.assert_close(told[name], value)


def net_of(version: str, n_classes: int, weights: float) -> MCTformer:
    """Return a tiny net with fresh weights, or with matrices of standard deviation `weights`, as trained ones have."""
    torch.manual_seed(0)
    net = MCTformer(ClassTokenBackbone(small_vit(depth=4), n_classes), version)
    for parameter in net.parameters():
        if weights and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=weights)
    return net


def train_tokens(net: MCTformer, labels: torch.Tensor, rate: float) -> tuple[float, float]:
    """Return the class tokens' loss before and after 25 steps of AdamW on 8 random images."""
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    config = MctformerConfig(version=net.version)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=config.weight_decay)
    losses = []
    for _ in range(26):
        told = loss(net, {"image": images, "labels": labels.to(torch.uint8)}, config)
        losses.append(told["tokens"].item())
        optimiser.zero_grad()
        told["loss"].backward()
        optimiser.step()
    return losses[0], losses[-1]


# One of 20 classes each, as in photographs of VOC; then labels that only the pixels tell.
SPARSE = torch.eye(20)[[3, 7, 1, 12, 12, 0, 19, 5]]
BALANCED = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0],
                         [1, 1, 1, 0], [0, 0, 0, 1]])
STARTS = [(SPARSE, 0.0, 1e-3), (BALANCED, 0.1, 3e-3)]


@pytest.mark.parametrize(("labels", "weights", "rate"), STARTS, ids=["fresh", "as trained"])
@pytest.mark.parametrize("version", VERSIONS)
def test_class_tokens_learn_in_25_steps(version, labels, weights, rate):
    before, after = train_tokens(net_of(version, labels.shape[1], weights), labels, rate)
    assert 0.6 < before < 0.8 and after < 0.4, f"{before} -> {after}"


@pytest.mark.parametrize(("labels", "weights", "rate"), STARTS, ids=["fresh", "as trained"])
def test_behind_a_final_norm_they_do_not(labels, weights, rate):
    """Why there is none: the channel mean of a normalised token is bounded by the spread of the norm's gains."""
    net = net_of("v1", labels.shape[1], weights)
    net.backbone.model.blocks[-1] = torch.nn.Sequential(net.backbone.model.blocks[-1], torch.nn.LayerNorm(48))
    before, after = train_tokens(net, labels, rate)
    assert before == pytest.approx(log(2), abs=1e-3) and after > 0.5, f"{before} -> {after}"
