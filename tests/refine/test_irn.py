"""Walks up to boundaries: walls, mirror images, and maps on the net's grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.flow.maps import full_size, on_cells
from stages.refine.irn import boundary_of, walked
from stages.shards import Item

SETTINGS = {"radius": 5, "beta": 10.0, "steps": 256}


def test_maps_fill_what_is_enclosed_and_do_not_cross():
    boundary = torch.zeros(12, 16)
    boundary[:, 7] = 1
    rows = np.zeros((1, 12, 16), np.float32)
    rows[0, 5, 2] = 1
    maps = walked(boundary, rows, **SETTINGS)
    assert maps.dtype == np.float32 and maps.max() == 1
    assert maps[0, :, :7].min() > 0.5 and not maps[0, :, 7:].any()


def test_what_lies_on_a_boundary_does_not_walk():
    boundary = torch.zeros(6, 8)
    boundary[2, 3] = 1
    rows = np.zeros((2, 6, 8), np.float32)
    rows[:, 2, 3] = 1
    rows[1, 0, 0] = 0.5
    maps = walked(boundary, rows, **SETTINGS)
    assert not maps[0].any() and maps[1].max() == 1


def test_rows_share_one_maximum_and_none_is_fine():
    random = np.random.default_rng(0)
    boundary, rows = torch.from_numpy(random.random((6, 8), np.float32)), random.random((2, 6, 8), np.float32)
    rows[1] *= 0.5
    maps = walked(boundary, rows, **SETTINGS)
    assert maps.max() == maps[0].max() == 1 and 0 < maps[1].max() < 0.9
    assert walked(boundary, rows[:0], **SETTINGS).shape == (0, 6, 8)
    assert not walked(boundary, rows * 0, **SETTINGS).any()


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirrored_maps_walk_to_the_mirror_image(axis):
    random = np.random.default_rng(0)
    boundary, rows = random.random((9, 12), np.float32), random.random((2, 9, 12), np.float32)
    plain = walked(torch.from_numpy(boundary), rows, **SETTINGS)
    mirrored = walked(torch.from_numpy(np.flip(boundary, axis).copy()), np.flip(rows, axis), **SETTINGS)
    np.testing.assert_allclose(np.flip(mirrored, axis), plain, rtol=1e-5)


def test_the_boundary_is_averaged_with_the_mirror_images_before_the_sigmoid():
    logits, mirrored = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    found = boundary_of(logits, mirrored)
    torch.testing.assert_close(found[1, 2, 0], torch.sigmoid((logits[1, 2, 0] + mirrored[1, 2, 6]) / 2))
    # The mirror image has the mirrored boundary.
    torch.testing.assert_close(boundary_of(mirrored, logits).flip(-1), found)


def item(cam: np.ndarray, size: tuple[int, int], covers: tuple[int, int]) -> Item:
    return Item("a", {"cam": cam, "class_ids": np.arange(1, len(cam) + 1, dtype=np.uint16)},
                {"height": size[0], "width": size[1], "covers": np.array(covers)})


def test_maps_on_the_cells_come_as_they_are():
    cam = np.random.default_rng(0).random((2, 10, 13)).astype(np.float32)
    rows, ids = on_cells(item(cam, (37, 50), (40, 52)), 4)
    np.testing.assert_allclose(rows, cam, atol=1e-6)
    assert ids.tolist() == [1, 2]
    assert on_cells(item(cam[:0], (37, 50), (40, 52)), 4)[0].shape == (0, 10, 13)


def test_maps_on_other_cells_are_read_at_the_middle():
    cam = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    given = item(cam, (37, 50), (48, 64))
    full, _ = full_size(given)
    rows, _ = on_cells(given, 4)
    assert rows.shape == (2, 10, 13)
    middle = (full[:, 1:36:4, 1:48:4] + full[:, 2:36:4, 2:48:4]) / 2
    np.testing.assert_allclose(rows[:, :9, :12], middle[:, :9, :12], atol=0.01)
    half = (full[:, 1:36:4, 1:48:4] + full[:, 1:36:4, 2:48:4] + full[:, 2:36:4, 1:48:4] + full[:, 2:36:4, 2:48:4]) / 4
    np.testing.assert_allclose(rows[:, :9, :12], half[:, :9, :12], atol=1e-5)
