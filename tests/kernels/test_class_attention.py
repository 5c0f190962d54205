"""Fusion, refinement and pooling of MCTformer's maps, compared with explicit sums in float64."""

from __future__ import annotations

import pytest
import torch

from stages.kernels.class_attention import (
    average_class_attention,
    compute_patch_affinity,
    fuse_class_maps,
    rank_pool,
    refine_maps,
    rescale_to_unit_range,
)

GRID, CLASSES, REGISTERS = (3, 5), 4, 2
TOKENS = CLASSES + REGISTERS + 15


@pytest.fixture
def attention():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 2, TOKENS, TOKENS, generator=generator, dtype=torch.float64).softmax(-1)


@pytest.fixture
def patch():
    return torch.randn(2, CLASSES, *GRID, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_class_attention_of_patches(attention):
    class_attention = average_class_attention(attention[-2:], CLASSES, GRID)
    first_patch = CLASSES + REGISTERS
    expected = (attention[4, 1, 3, first_patch + 2 * 5 + 4] + attention[5, 1, 3, first_patch + 2 * 5 + 4]) / 2
    assert class_attention.shape == (2, CLASSES, *GRID)
    assert float(class_attention[1, 3, 2, 4]) == pytest.approx(float(expected), abs=1e-15)


def test_fusion_of_each_version(attention, patch):
    mean = average_class_attention(attention[-3:], CLASSES, GRID)
    positive = patch.clamp(min=0)
    tolerance = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(fuse_class_maps("v1", "fused", mean, None, 3), 3 * mean, **tolerance)
    torch.testing.assert_close(fuse_class_maps("v2", "fused", mean, patch, 3), 3 * mean * positive, **tolerance)
    torch.testing.assert_close(fuse_class_maps("plus", "fused", mean, patch, 3), (mean * positive) ** 0.5, **tolerance)
    torch.testing.assert_close(fuse_class_maps("v2", "attention", mean, patch, 3), 3 * mean, **tolerance)
    torch.testing.assert_close(fuse_class_maps("plus", "attention", mean, patch, 3), mean, **tolerance)
    assert all(torch.equal(fuse_class_maps(version, "patch", mean, patch, 3), positive) for version in ("v2", "plus"))


def test_gradient_is_finite_at_zero(attention, patch):
    patch[0, 0] = -1
    patch.requires_grad_()
    attention.requires_grad_()
    fuse_class_maps("plus", "fused", average_class_attention(attention, CLASSES, GRID), patch, 6).sum().backward()
    assert torch.isfinite(patch.grad).all() and torch.isfinite(attention.grad).all()
    assert not patch.grad[0, 0].any() and patch.grad[patch > 0].all()


def test_refinement_sums_attended_patches(attention, patch):
    affinity = compute_patch_affinity(attention, GRID)
    expected = torch.zeros_like(patch).flatten(2)
    first_patch = CLASSES + REGISTERS
    for target in range(15):
        for source in range(15):
            weight = attention[:, :, first_patch + target, first_patch + source].sum(0)
            expected[:, :, target] += weight[:, None] * patch.flatten(2)[:, :, source]
    torch.testing.assert_close(refine_maps(patch, affinity).flatten(2), expected, rtol=1e-12, atol=1e-13)


def test_refinement_is_not_rounded_under_autocast(attention, patch):
    maps, affinity = patch.relu().float(), compute_patch_affinity(attention, GRID).float()
    with torch.autocast("cpu", torch.bfloat16):
        refined = refine_maps(maps, affinity)
    assert refined.dtype == torch.float32 and torch.equal(refined, refine_maps(maps, affinity))


def test_maps_are_rescaled_separately(patch):
    rescaled = rescale_to_unit_range(patch)
    assert not rescaled.amin((2, 3)).any()
    torch.testing.assert_close(rescaled.amax((2, 3)), torch.ones(2, CLASSES, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(rescale_to_unit_range(7 * patch + 3), rescaled, rtol=0, atol=1e-7)
    assert not rescale_to_unit_range(torch.full((1, 2, 3, 4), 0.7)).any()


def test_rank_pooling(patch):
    maps = torch.tensor([[[[1.0, 4.0], [2.0, 3.0]]]], dtype=torch.float64)
    assert float(rank_pool(maps, 0.5)) == pytest.approx((4 + 3 / 2 + 2 / 4 + 1 / 8) / (1 + 1 / 2 + 1 / 4 + 1 / 8))
    torch.testing.assert_close(rank_pool(patch, 1.0), patch.mean((2, 3)))
    torch.testing.assert_close(rank_pool(patch, 1e-12), patch.amax((2, 3)))
    shuffled = patch.flatten(2)[:, :, torch.randperm(15)].unflatten(-1, GRID)
    torch.testing.assert_close(rank_pool(shuffled), rank_pool(patch))
