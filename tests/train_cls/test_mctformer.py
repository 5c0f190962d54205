"""The losses of MCTformer, compared with plain loops."""

from __future__ import annotations

from math import e, exp, log
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity, multilabel_soft_margin_loss

from small_vit import small_vit
from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.mctformer import MCTFORMER_VERSIONS, MCTformer, MCTformerOutputs
from stages.train_cls.config import MctformerConfig
from stages.train_cls.mctformer import loss, token_contrast_loss

LABELS = torch.tensor([[1.0, 0, 1], [0, 1, 0]])


def draw_tokens(layers: int) -> torch.Tensor:
    return torch.randn(layers, 2, 3, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def compute_contrast_by_loops(tokens: torch.Tensor, labels: torch.Tensor) -> float:
    images = []
    for image, row in enumerate(labels.tolist()):
        present, losses = [class_index for class_index, label in enumerate(row) if label], []
        for layer in tokens[:, image]:
            for class_index in present:
                cosines = [float(cosine_similarity(layer[class_index], other, dim=0)) for other in layer]
                losses.append(log(sum(map(exp, cosines))) - cosines[class_index])
        images.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(images) / len(images)


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([[0.0, 0, 0], [1, 1, 1]])], ids=["some", "none and all"])
def test_token_contrast_equals_a_loop(labels):
    tokens = draw_tokens(4)
    contrast = float(token_contrast_loss(tokens, labels))
    assert contrast == pytest.approx(compute_contrast_by_loops(tokens, labels), abs=1e-12)
    assert float(token_contrast_loss(5 * tokens, labels)) == pytest.approx(contrast, abs=1e-12)


def test_token_contrast_of_equal_and_orthogonal_tokens():
    equal, orthogonal = torch.ones(1, 2, 3, 8), torch.eye(3, 8).expand(1, 2, 3, 8)
    assert float(token_contrast_loss(equal, LABELS)) == pytest.approx(log(3))
    assert float(token_contrast_loss(orthogonal, LABELS)) == pytest.approx(log(1 + 2 / e))


def test_token_contrast_without_labels_has_zero_gradient():
    tokens = draw_tokens(2).requires_grad_()
    token_contrast_loss(tokens, torch.zeros(2, 3)).backward()
    assert torch.isfinite(tokens.grad).all() and not tokens.grad.any()


class FixedOutputNet:
    """A network with fixed outputs."""

    def __init__(self, version: str) -> None:
        self.version = version
        generator = torch.Generator().manual_seed(7)
        self.first, self.second = torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)

    def forward_outputs(self, _images: torch.Tensor) -> MCTformerOutputs:
        return MCTformerOutputs(self.first, None if self.version == "v1" else self.second, draw_tokens(4).float())


@pytest.mark.parametrize(("layers", "weight"), [(0, 1.0), (2, 0.5), (0, 0.0)])
@pytest.mark.parametrize("version", ["v1", "v2", "plus"])
def test_loss_sums_the_terms_of_the_version(version, layers, weight):
    net = FixedOutputNet(version)
    terms = loss(net, {"image": torch.zeros(2, 3, 4, 4), "labels": LABELS.to(torch.uint8)},
                SimpleNamespace(contrast=weight, contrast_layers=layers))
    expected = {"tokens": multilabel_soft_margin_loss(net.first, LABELS)}
    if version != "v1":
        expected["patches"] = multilabel_soft_margin_loss(net.second, LABELS)
    total = sum(expected.values())
    if version == "plus" and weight:
        expected["contrast"] = token_contrast_loss(draw_tokens(4)[-layers:].float(), LABELS)
        total = total + weight * expected["contrast"]
    assert set(terms) == {"loss", "predicted", *expected}
    for name, value in {**expected, "loss": total}.items():
        torch.testing.assert_close(terms[name], value)


def build_net(version: str, num_classes: int, weights: float) -> MCTformer:
    """Return a tiny network with new weights, or with matrices of standard deviation `weights`, like trained ones."""
    torch.manual_seed(0)
    net = MCTformer(ClassTokenBackbone(small_vit(depth=4), num_classes), version)
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
        terms = loss(net, {"image": images, "labels": labels.to(torch.uint8)}, config)
        losses.append(terms["tokens"].item())
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
    return losses[0], losses[-1]


# One of 20 classes each, as in photographs of VOC; then labels that can be learnt from the pixels only.
SPARSE = torch.eye(20)[[3, 7, 1, 12, 12, 0, 19, 5]]
BALANCED = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0],
                         [1, 1, 1, 0], [0, 0, 0, 1]])
STARTS = [(SPARSE, 0.0, 1e-3), (BALANCED, 0.1, 3e-3)]


@pytest.mark.parametrize(("labels", "weights", "rate"), STARTS, ids=["fresh", "as trained"])
@pytest.mark.parametrize("version", MCTFORMER_VERSIONS)
def test_class_tokens_learn_in_25_steps(version, labels, weights, rate):
    before, after = train_tokens(build_net(version, labels.shape[1], weights), labels, rate)
    assert 0.6 < before < 0.8 and after < 0.4, f"{before} -> {after}"


@pytest.mark.parametrize(("labels", "weights", "rate"), STARTS, ids=["fresh", "as trained"])
def test_class_tokens_with_a_final_norm_do_not_learn(labels, weights, rate):
    """Why there is no final norm: the channel mean of a normalised token is bounded by the spread of its weights."""
    net = build_net("v1", labels.shape[1], weights)
    net.backbone.model.blocks[-1] = torch.nn.Sequential(net.backbone.model.blocks[-1], torch.nn.LayerNorm(48))
    before, after = train_tokens(net, labels, rate)
    assert before == pytest.approx(log(2), abs=1e-3) and after > 0.5, f"{before} -> {after}"
