"""IRN's random walk: boundaries, mirrored images, and maps on the network's grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.flow.item_arrays import resample_to_cells, resize_to_image
from stages.refine.irn import compute_boundary, walk_maps
from stages.shards import Item

SETTINGS = {"radius": 5, "beta": 10.0, "steps": 256}


def test_walk_fills_region_and_stops_at_boundary():
    boundary = torch.zeros(12, 16)
    boundary[:, 7] = 1
    cams = np.zeros((1, 12, 16), np.float32)
    cams[0, 5, 2] = 1
    maps = walk_maps(boundary, cams, **SETTINGS)
    assert maps.dtype == np.float32 and maps.max() == 1
    assert maps[0, :, :7].min() > 0.5 and not maps[0, :, 7:].any()


def test_scores_on_boundary_are_removed():
    boundary = torch.zeros(6, 8)
    boundary[2, 3] = 1
    cams = np.zeros((2, 6, 8), np.float32)
    cams[:, 2, 3] = 1
    cams[1, 0, 0] = 0.5
    maps = walk_maps(boundary, cams, **SETTINGS)
    assert not maps[0].any() and maps[1].max() == 1


def test_maps_share_one_maximum():
    random = np.random.default_rng(0)
    boundary, cams = torch.from_numpy(random.random((6, 8), np.float32)), random.random((2, 6, 8), np.float32)
    cams[1] *= 0.5
    maps = walk_maps(boundary, cams, **SETTINGS)
    assert maps.max() == maps[0].max() == 1 and 0 < maps[1].max() < 0.9
    assert walk_maps(boundary, cams[:0], **SETTINGS).shape == (0, 6, 8)
    assert not walk_maps(boundary, cams * 0, **SETTINGS).any()


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirrored_maps_give_mirrored_walk(axis):
    random = np.random.default_rng(0)
    boundary, cams = random.random((9, 12), np.float32), random.random((2, 9, 12), np.float32)
    expected = walk_maps(torch.from_numpy(boundary), cams, **SETTINGS)
    mirrored = walk_maps(torch.from_numpy(np.flip(boundary, axis).copy()), np.flip(cams, axis), **SETTINGS)
    np.testing.assert_allclose(np.flip(mirrored, axis), expected, rtol=1e-5)


def test_boundary_is_averaged_before_sigmoid():
    logits, mirrored = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    boundary = compute_boundary(logits, mirrored)
    torch.testing.assert_close(boundary[1, 2, 0], torch.sigmoid((logits[1, 2, 0] + mirrored[1, 2, 6]) / 2))
    # The mirrored image has the mirrored boundary.
    torch.testing.assert_close(compute_boundary(mirrored, logits).flip(-1), boundary)


def build_item(cam: np.ndarray, size: tuple[int, int], covers: tuple[int, int]) -> Item:
    return Item("a", {"cam": cam, "class_ids": np.arange(1, len(cam) + 1, dtype=np.uint16)},
                {"height": size[0], "width": size[1], "covers": np.array(covers)})


def test_maps_on_same_cells_are_unchanged():
    cam = np.random.default_rng(0).random((2, 10, 13)).astype(np.float32)
    cams, ids = resample_to_cells(build_item(cam, (37, 50), (40, 52)), 4)
    np.testing.assert_allclose(cams, cam, atol=1e-6)
    assert ids.tolist() == [1, 2]
    assert resample_to_cells(build_item(cam[:0], (37, 50), (40, 52)), 4)[0].shape == (0, 10, 13)


def test_maps_on_other_cells_are_sampled_at_centres():
    cam = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    source_item = build_item(cam, (37, 50), (48, 64))
    full, _ = resize_to_image(source_item)
    cams, _ = resample_to_cells(source_item, 4)
    assert cams.shape == (2, 10, 13)
    diagonal_mean = (full[:, 1:36:4, 1:48:4] + full[:, 2:36:4, 2:48:4]) / 2
    np.testing.assert_allclose(cams[:, :9, :12], diagonal_mean[:, :9, :12], atol=0.01)
    mean = (full[:, 1:36:4, 1:48:4] + full[:, 1:36:4, 2:48:4] + full[:, 2:36:4, 1:48:4] + full[:, 2:36:4, 2:48:4]) / 4
    np.testing.assert_allclose(cams[:, :9, :12], mean[:, :9, :12], atol=1e-5)
