"""Which images make a batch, and how fast each parameter learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.nets.segmenter import build_segmenter
from stages.training.config import LoopConfig
from stages.training.optimiser import build_optimiser, hold_batch_norm, set_rate
from stages.training.order import batch_positions, batches, steps_per_epoch
from training.small import CONFIG, Small


def _epoch(n: int, batch: int, seed: int, epoch: int, world: int = 1) -> list[list[list[int]]]:
    return [[batch_positions(n, batch, seed, epoch, step, rank, world) for rank in range(world)]
            for step in range(steps_per_epoch(n, batch, world))]


@pytest.mark.parametrize(("n", "batch", "world"), [(12, 4, 1), (13, 4, 1), (12, 2, 2), (101, 3, 4)])
def test_a_pass_shows_every_image_at_most_once_in_full_batches(n: int, batch: int, world: int) -> None:
    steps = _epoch(n, batch, 0, 0, world)
    shown = [position for step in steps for share in step for position in share]
    assert len(set(shown)) == len(shown) == n - n % (batch * world)
    assert set(shown) <= set(range(n))
    assert all(len(share) == batch for step in steps for share in step)


def test_the_order_is_a_function_of_seed_and_pass() -> None:
    assert _epoch(20, 4, 3, 5) == _epoch(20, 4, 3, 5)
    orders = {str(_epoch(20, 4, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_processes_share_the_batch_that_one_would_have() -> None:
    alone, shared = _epoch(24, 4, 1, 2), _epoch(24, 2, 1, 2, 2)
    for (whole,), shares in zip(alone, shared, strict=True):
        assert sorted(whole) == sorted(shares[0] + shares[1])


@pytest.mark.parametrize(("n", "world"), [(1, 2), (3, 2), (5, 4), (2, 3)])
def test_with_fewer_images_than_one_batch_every_process_has_equally_many(n: int, world: int) -> None:
    (shares,) = _epoch(n, 8, 0, 0, world)
    assert {len(share) for share in shares} == {-(-n // world)}
    assert {position for share in shares for position in share} == set(range(n))


@pytest.mark.parametrize("workers", [0, 3])
def test_what_a_batch_shares_depends_on_seed_epoch_and_batch_alone(workers: int) -> None:
    def draw(position: int, generator: np.random.Generator, factor: float) -> dict[str, np.ndarray]:
        return {"x": np.array([generator.random(), factor])}

    def shares(wanted: list[tuple[int, list[int]]], seed: int) -> list[tuple[float, ...]]:
        drawn = batches(draw, iter(wanted), seed, workers, lambda generator: float(generator.random()))
        return [tuple(batch["x"][:, 1].tolist()) for batch in drawn]

    wanted = [(0, [2, 1]), (0, [0]), (1, [2, 0, 1])]
    first = shares(wanted, 7)
    assert all(len(set(factors)) == 1 for factors in first)
    assert len({factors[0] for factors in first}) == 3
    assert shares(wanted[1:], 7) == first[1:]
    assert shares(wanted, 8)[0] != first[0]
    assert not {value for batch in batches(draw, iter(wanted), 7, 0, lambda generator: float(generator.random()))
                for value in batch["x"][:, 0].tolist()} & {factors[0] for factors in first}


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_what_is_drawn_depends_on_seed_pass_and_position_alone(workers: int) -> None:
    def draw(position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": np.array([position, generator.random()])}

    wanted = [(0, [2, 1]), (0, [0]), (1, [2, 0, 1])]
    first = [batch["x"].numpy() for batch in batches(draw, iter(wanted), 7, workers)]
    later = [batch["x"].numpy() for batch in batches(draw, iter(wanted[1:]), 7, 0)]
    assert [len(one) for one in first] == [2, 1, 3]
    for one, other in zip(first[1:], later, strict=True):
        np.testing.assert_array_equal(one, other)
    assert first[0][0, 0] == first[2][0, 0] == 2 and first[0][0, 1] != first[2][0, 1]
    other_seed = next(batches(draw, iter(wanted), 8, 0))["x"]
    assert not np.array_equal(other_seed, first[0])


def test_an_error_of_a_reading_thread_comes_through() -> None:
    def draw(position: int, _: np.random.Generator) -> dict[str, np.ndarray]:
        raise ValueError(f"picture {position}")

    with pytest.raises(ValueError, match="picture 3"):
        next(batches(draw, iter([(0, [3])]), 0, 2))


def _rates(config: object, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "factor": 10.0}], lr=1)
    told = []
    for step in range(steps):
        told.append(set_rate(optimiser, config, step, steps))  # type: ignore[arg-type]
        assert optimiser.param_groups[0]["lr"] == pytest.approx(10 * told[-1])
    return told


def test_the_poly_schedule() -> None:
    assert _rates(replace(CONFIG, lr=0.2), 5) == pytest.approx([0.2 * (1 - step / 5) ** 0.9 for step in range(5)])
    assert _rates(replace(CONFIG, lr=0.2, schedule="constant"), 3) == [0.2] * 3
    warm = _rates(replace(CONFIG, lr=1.0, warmup=4, schedule="constant"), 6)
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_the_cosine_schedule() -> None:
    config = replace(CONFIG, lr=0.2, schedule="cosine", lr_floor=0.04)
    # Half a wave over 4 steps, by its values at 0, 45, 90 and 135 degrees.
    assert _rates(config, 4) == pytest.approx([0.2, 0.12 + 0.08 * 0.5**0.5, 0.12, 0.12 - 0.08 * 0.5**0.5])
    assert _rates(replace(config, lr_floor=0.0), 2) == pytest.approx([0.2, 0.1])
    warm = _rates(replace(config, warmup=2), 4)
    assert warm == pytest.approx([0.1, *_rates(config, 4)[1:]])


def _group_of(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict:
    (found,) = [group for group in optimiser.param_groups if any(one is parameter for one in group["params"])]
    return found


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_every_parameter_has_the_rate_and_decay_of_its_group(kind: str) -> None:
    config = replace(CONFIG, lr=0.1, head_lr_factor=10.0, bias_lr_factor=2.0, weight_decay=0.01, optimizer=kind)
    net = Small()
    optimiser = build_optimiser(net, net.classifier.parameters(), config)
    wanted = {net.conv.weight: (0.1, 0.01), net.conv.bias: (0.2, 0.0), net.norm.weight: (0.1, 0.01),
              net.norm.bias: (0.2, 0.0), net.classifier.weight: (1.0, 0.01), net.classifier.bias: (2.0, 0.0)}
    for parameter, (rate, decay) in wanted.items():
        group = _group_of(optimiser, parameter)
        assert (group["lr"], group["weight_decay"]) == pytest.approx((rate, decay))
        assert group["lr"] == pytest.approx(config.lr * group["factor"])
    assert isinstance(optimiser, torch.optim.AdamW) == (kind == "adamw")
    if kind == "sgd":
        assert all(group["momentum"] == 0.9 for group in optimiser.param_groups)


def test_by_default_a_bias_learns_and_decays_as_its_weight_does() -> None:
    net = Small()
    optimiser = build_optimiser(net, net.classifier.parameters(), replace(CONFIG, weight_decay=0.01))
    assert _group_of(optimiser, net.conv.bias)["lr"] == _group_of(optimiser, net.conv.weight)["lr"]
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.01}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_norms_and_what_the_backbone_names_can_be_spared_the_decay(kind: str) -> None:
    net = Small()
    net.undecayed = ("tokens",)
    net.tokens = nn.Parameter(torch.zeros(1, 2, 3))
    config = replace(CONFIG, lr=0.1, head_lr_factor=10.0, weight_decay=0.01, optimizer=kind, decay="matrices")
    optimiser = build_optimiser(net, net.classifier.parameters(), config)
    wanted = {net.conv.weight: (0.1, 0.01), net.conv.bias: (0.1, 0.0), net.norm.weight: (0.1, 0.0),
              net.norm.bias: (0.1, 0.0), net.classifier.weight: (1.0, 0.01), net.classifier.bias: (1.0, 0.0),
              net.tokens: (0.1, 0.0)}
    for parameter, (rate, decay) in wanted.items():
        group = _group_of(optimiser, parameter)
        assert (group["lr"], group["weight_decay"]) == pytest.approx((rate, decay))


def test_frozen_parameters_are_left_out() -> None:
    net = Small()
    net.conv.weight.requires_grad_(False)
    optimiser = build_optimiser(net, [], CONFIG)
    kept = {id(one) for group in optimiser.param_groups for one in group["params"]}
    assert kept == {id(one) for one in net.parameters()} - {id(net.conv.weight)}


@pytest.mark.parametrize(("mode", "moves", "learns"), [("no", True, True), ("statistics", False, True),
                                                       ("all", False, False)])
def test_what_is_held_of_batch_normalisation(mode: str, moves: bool, learns: bool) -> None:
    net = Small().eval()
    hold_batch_norm(net, mode)
    before = net.norm.running_mean.clone()
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    assert (not torch.equal(net.norm.running_mean, before)) == moves
    assert (net.norm.weight.grad is not None) == learns
    assert net.drop.training and net.conv.weight.grad is not None


def test_the_batch_normalisation_of_a_head_always_learns() -> None:
    net = build_segmenter("wsss:tiny", 3)
    hold_batch_norm(net, "all")
    held = {id(module) for module in net.backbone.modules()}
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {module.training for module in norms if id(module) in held} == {False}
    assert {module.training for module in norms if id(module) not in held} == {True}
    assert all(parameter.requires_grad for parameter in net.head_parameters())


def test_the_rise_comes_before_the_half_wave():
    weight = nn.Parameter(torch.zeros(1))
    config = LoopConfig(lr=2.0, lr_floor=0.5, warmup=4, schedule="warmup-cosine")
    optimiser = torch.optim.SGD([{"params": [weight], "factor": 1.0}], lr=1.0)
    rates = [set_rate(optimiser, config, step, 12) for step in (0, 2, 4, 8, 12)]
    assert rates == pytest.approx([2e-4, 2 * (0.5 + 0.5e-4), 2.0, 1.25, 0.5])
