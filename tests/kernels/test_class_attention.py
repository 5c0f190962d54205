"""Fusion, refinement and pooling of MCTformer's maps, in float64 against sums written out."""

from __future__ import annotations

import pytest
import torch

from stages.kernels.class_attention import class_to_patch, fuse, patch_affinity, rank_pool, refine_maps, unit_range

GRID, CLASSES, REGISTERS = (3, 5), 4, 2
TOKENS = CLASSES + REGISTERS + 15


@pytest.fixture
def attention():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 2, TOKENS, TOKENS, generator=generator, dtype=torch.float64).softmax(-1)


@pytest.fixture
def patch():
    return torch.randn(2, CLASSES, *GRID, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_patches_come_last_row_by_row(attention):
    found = class_to_patch(attention[-2:], CLASSES, GRID)
    first = CLASSES + REGISTERS
    wanted = (attention[4, 1, 3, first + 2 * 5 + 4] + attention[5, 1, 3, first + 2 * 5 + 4]) / 2
    assert found.shape == (2, CLASSES, *GRID)
    assert float(found[1, 3, 2, 4]) == pytest.approx(float(wanted), abs=1e-15)


def test_fusions(attention, patch):
    mean = class_to_patch(attention[-3:], CLASSES, GRID)
    positive = patch.clamp(min=0)
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(fuse("v1", "fused", mean, None, 3), 3 * mean, **close)
    torch.testing.assert_close(fuse("v2", "fused", mean, patch, 3), 3 * mean * positive, **close)
    torch.testing.assert_close(fuse("plus", "fused", mean, patch, 3), (mean * positive) ** 0.5, **close)
    torch.testing.assert_close(fuse("v2", "attention", mean, patch, 3), 3 * mean, **close)
    torch.testing.assert_close(fuse("plus", "attention", mean, patch, 3), mean, **close)
    assert all(torch.equal(fuse(version, "patch", mean, patch, 3), positive) for version in ("v2", "plus"))


def test_the_gradient_is_finite_where_the_patch_classifier_says_no(attention, patch):
    patch[0, 0] = -1
    patch.requires_grad_()
    attention.requires_grad_()
    fuse("plus", "fused", class_to_patch(attention, CLASSES, GRID), patch, 6).sum().backward()
    assert torch.isfinite(patch.grad).all() and torch.isfinite(attention.grad).all()
    assert not patch.grad[0, 0].any() and patch.grad[patch > 0].all()


def test_a_patch_takes_from_those_that_it_attends_to(attention, patch):
    affinity = patch_affinity(attention, GRID)
    wanted = torch.zeros_like(patch).flatten(2)
    first = CLASSES + REGISTERS
    for to in range(15):
        for source in range(15):
            weight = attention[:, :, first + to, first + source].sum(0)
            wanted[:, :, to] += weight[:, None] * patch.flatten(2)[:, :, source]
    torch.testing.assert_close(refine_maps(patch, affinity).flatten(2), wanted, rtol=1e-12, atol=1e-13)


def test_half_precision_of_a_network_does_not_round_the_refinement(attention, patch):
    maps, affinity = patch.relu().float(), patch_affinity(attention, GRID).float()
    with torch.autocast("cpu", torch.bfloat16):
        refined = refine_maps(maps, affinity)
    assert refined.dtype == torch.float32 and torch.equal(refined, refine_maps(maps, affinity))


def test_maps_are_stretched_each_for_itself(patch):
    found = unit_range(patch)
    assert not found.amin((2, 3)).any()
    torch.testing.assert_close(found.amax((2, 3)), torch.ones(2, CLASSES, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(unit_range(7 * patch + 3), found, rtol=0, atol=1e-7)
    assert not unit_range(torch.full((1, 2, 3, 4), 0.7)).any()


def test_rank_pooling_by_hand(patch):
    maps = torch.tensor([[[[1.0, 4.0], [2.0, 3.0]]]], dtype=torch.float64)
    assert float(rank_pool(maps, 0.5)) == pytest.approx((4 + 3 / 2 + 2 / 4 + 1 / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8))
    torch.testing.assert_close(rank_pool(patch, 1.0), patch.mean((2, 3)))
    torch.testing.assert_close(rank_pool(patch, 1e-12), patch.amax((2, 3)))
    shuffled = patch.flatten(2)[:, :, torch.randperm(15)].unflatten(-1, GRID)
    torch.testing.assert_close(rank_pool(shuffled), rank_pool(patch))
