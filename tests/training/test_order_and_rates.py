"""Composition of batches, parameter groups and learning rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.nets.segmenter import build_segmenter
from stages.training.batching import count_steps_per_epoch, iterate_batches, select_batch_indices
from stages.training.config import LoopConfig
from stages.training.optimiser import build_optimiser, set_learning_rates, set_training_mode
from training.small import CONFIG, SmallNet


def _select_epoch(n: int, batch: int, seed: int, epoch: int, world: int = 1) -> list[list[list[int]]]:
    return [[select_batch_indices(n, batch, seed, epoch, step, rank, world) for rank in range(world)]
            for step in range(count_steps_per_epoch(n, batch, world))]


@pytest.mark.parametrize(("n", "batch", "world"), [(12, 4, 1), (13, 4, 1), (12, 2, 2), (101, 3, 4)])
def test_epoch_has_every_image_at_most_once_in_full_batches(n: int, batch: int, world: int) -> None:
    steps = _select_epoch(n, batch, 0, 0, world)
    shown = [position for step in steps for share in step for position in share]
    assert len(set(shown)) == len(shown) == n - n % (batch * world)
    assert set(shown) <= set(range(n))
    assert all(len(share) == batch for step in steps for share in step)


def test_order_depends_on_seed_and_epoch_only() -> None:
    assert _select_epoch(20, 4, 3, 5) == _select_epoch(20, 4, 3, 5)
    orders = {str(_select_epoch(20, 4, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_processes_share_the_batch_of_one_process() -> None:
    alone, shared = _select_epoch(24, 4, 1, 2), _select_epoch(24, 2, 1, 2, 2)
    for (whole,), shares in zip(alone, shared, strict=True):
        assert sorted(whole) == sorted(shares[0] + shares[1])


@pytest.mark.parametrize(("n", "world"), [(1, 2), (3, 2), (5, 4), (2, 3)])
def test_every_process_gets_equally_many_of_few_images(n: int, world: int) -> None:
    (shares,) = _select_epoch(n, 8, 0, 0, world)
    assert {len(share) for share in shares} == {-(-n // world)}
    assert {position for share in shares for position in share} == set(range(n))


@pytest.mark.parametrize("workers", [0, 3])
def test_batch_value_depends_on_seed_epoch_and_batch_only(workers: int) -> None:
    def draw(position: int, generator: np.random.Generator, factor: float) -> dict[str, np.ndarray]:
        return {"x": np.array([generator.random(), factor])}

    def draw_batch_values(planned: list[tuple[int, list[int]]], seed: int) -> list[tuple[float, ...]]:
        batches = iterate_batches(draw, iter(planned), seed, workers, lambda generator: float(generator.random()))
        return [tuple(batch["x"][:, 1].tolist()) for batch in batches]

    planned = [(0, [2, 1]), (0, [0]), (1, [2, 0, 1])]
    first = draw_batch_values(planned, 7)
    assert all(len(set(factors)) == 1 for factors in first)
    assert len({factors[0] for factors in first}) == 3
    assert draw_batch_values(planned[1:], 7) == first[1:]
    assert draw_batch_values(planned, 8)[0] != first[0]
    batches = iterate_batches(draw, iter(planned), 7, 0, lambda generator: float(generator.random()))
    assert not {value for batch in batches for value in batch["x"][:, 0].tolist()} & {factors[0] for factors in first}


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_samples_depend_on_seed_epoch_and_position_only(workers: int) -> None:
    def draw(position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([position, generator.random()])}

    planned = [(0, [2, 1]), (0, [0]), (1, [2, 0, 1])]
    first = [batch["x"].numpy() for batch in iterate_batches(draw, iter(planned), 7, workers)]
    later = [batch["x"].numpy() for batch in iterate_batches(draw, iter(planned[1:]), 7, 0)]
    assert [len(values) for values in first] == [2, 1, 3]
    for values, later_values in zip(first[1:], later, strict=True):
        np.testing.assert_array_equal(values, later_values)
    assert first[0][0, 0] == first[2][0, 0] == 2 and first[0][0, 1] != first[2][0, 1]
    other_seed = next(iterate_batches(draw, iter(planned), 8, 0))["x"]
    assert not np.array_equal(other_seed, first[0])


def test_worker_error_is_raised() -> None:
    def draw(position: int, _: np.random.Generator) -> dict[str, np.ndarray]:
        raise ValueError(f"image {position}")

    with pytest.raises(ValueError, match="image 3"):
        next(iterate_batches(draw, iter([(0, [3])]), 0, 2))


def _compute_rates(config: object, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "factor": 10.0}], lr=1)
    rates = []
    for step in range(steps):
        rates.append(set_learning_rates(optimiser, config, step, steps))  # type: ignore[arg-type]
        assert optimiser.param_groups[0]["lr"] == pytest.approx(10 * rates[-1])
    return rates


def test_poly_and_constant_schedules_and_warmup() -> None:
    poly = _compute_rates(replace(CONFIG, lr=0.2), 5)
    assert poly == pytest.approx([0.2 * (1 - step / 5) ** 0.9 for step in range(5)])
    assert _compute_rates(replace(CONFIG, lr=0.2, schedule="constant"), 3) == [0.2] * 3
    warm = _compute_rates(replace(CONFIG, lr=1.0, warmup=4, schedule="constant"), 6)
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_cosine_schedule_and_warmup() -> None:
    config = replace(CONFIG, lr=0.2, schedule="cosine", lr_floor=0.04)
    # A half wave over 4 steps: its values at 0, 45, 90 and 135 degrees.
    assert _compute_rates(config, 4) == pytest.approx([0.2, 0.12 + 0.08 * 0.5**0.5, 0.12, 0.12 - 0.08 * 0.5**0.5])
    assert _compute_rates(replace(config, lr_floor=0.0), 2) == pytest.approx([0.2, 0.1])
    warm = _compute_rates(replace(config, warmup=2), 4)
    assert warm == pytest.approx([0.1, *_compute_rates(config, 4)[1:]])


def _find_group(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict:
    (group,) = [group for group in optimiser.param_groups if any(member is parameter for member in group["params"])]
    return group


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_learning_rate_and_weight_decay_of_each_group(kind: str) -> None:
    config = replace(CONFIG, lr=0.1, head_lr_factor=10.0, bias_lr_factor=2.0, weight_decay=0.01, optimizer=kind)
    net = SmallNet()
    optimiser = build_optimiser(net, net.classifier.parameters(), config)
    expected = {net.conv.weight: (0.1, 0.01), net.conv.bias: (0.2, 0.0), net.norm.weight: (0.1, 0.01),
              net.norm.bias: (0.2, 0.0), net.classifier.weight: (1.0, 0.01), net.classifier.bias: (2.0, 0.0)}
    for parameter, (rate, decay) in expected.items():
        group = _find_group(optimiser, parameter)
        assert (group["lr"], group["weight_decay"]) == pytest.approx((rate, decay))
        assert group["lr"] == pytest.approx(config.lr * group["factor"])
    assert isinstance(optimiser, torch.optim.AdamW) == (kind == "adamw")
    if kind == "sgd":
        assert all(group["momentum"] == 0.9 for group in optimiser.param_groups)


def test_biases_are_treated_as_weights_by_default() -> None:
    net = SmallNet()
    optimiser = build_optimiser(net, net.classifier.parameters(), replace(CONFIG, weight_decay=0.01))
    assert _find_group(optimiser, net.conv.bias)["lr"] == _find_group(optimiser, net.conv.weight)["lr"]
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.01}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_decay_matrices_exempts_biases_norms_and_listed_names(kind: str) -> None:
    net = SmallNet()
    net.no_decay_names = ("tokens",)
    net.tokens = nn.Parameter(torch.zeros(1, 2, 3))
    config = replace(CONFIG, lr=0.1, head_lr_factor=10.0, weight_decay=0.01, optimizer=kind, decay="matrices")
    optimiser = build_optimiser(net, net.classifier.parameters(), config)
    expected = {net.conv.weight: (0.1, 0.01), net.conv.bias: (0.1, 0.0), net.norm.weight: (0.1, 0.0),
              net.norm.bias: (0.1, 0.0), net.classifier.weight: (1.0, 0.01), net.classifier.bias: (1.0, 0.0),
              net.tokens: (0.1, 0.0)}
    for parameter, (rate, decay) in expected.items():
        group = _find_group(optimiser, parameter)
        assert (group["lr"], group["weight_decay"]) == pytest.approx((rate, decay))


def test_frozen_parameters_are_not_optimised() -> None:
    net = SmallNet()
    net.conv.weight.requires_grad_(False)
    optimiser = build_optimiser(net, [], CONFIG)
    optimised = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in net.parameters()} - {id(net.conv.weight)}


@pytest.mark.parametrize(("mode", "moves", "learns"), [("no", True, True), ("statistics", False, True),
                                                       ("all", False, False)])
def test_freeze_bn_freezes_statistics_and_weights(mode: str, moves: bool, learns: bool) -> None:
    net = SmallNet().eval()
    set_training_mode(net, mode)
    before = net.norm.running_mean.clone()
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    assert (not torch.equal(net.norm.running_mean, before)) == moves
    assert (net.norm.weight.grad is not None) == learns
    assert net.drop.training and net.conv.weight.grad is not None


def test_batch_normalisation_of_the_head_is_never_frozen() -> None:
    net = build_segmenter("wsss:tiny", 3)
    set_training_mode(net, "all")
    backbone_ids = {id(module) for module in net.backbone.modules()}
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {module.training for module in norms if id(module) in backbone_ids} == {False}
    assert {module.training for module in norms if id(module) not in backbone_ids} == {True}
    assert all(parameter.requires_grad for parameter in net.head_parameters())


def test_warmup_comes_before_the_cosine():
    weight = nn.Parameter(torch.zeros(1))
    config = LoopConfig(lr=2.0, lr_floor=0.5, warmup=4, schedule="warmup-cosine")
    optimiser = torch.optim.SGD([{"params": [weight], "factor": 1.0}], lr=1.0)
    rates = [set_learning_rates(optimiser, config, step, 12) for step in (0, 2, 4, 8, 12)]
    assert rates == pytest.approx([2e-4, 2 * (0.5 + 0.5e-4), 2.0, 1.25, 0.5])
