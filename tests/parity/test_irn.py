"""IRN's pairs, paths, affinities, losses and random walks against its own functions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from stages.kernels.boundary_paths import compute_all_path_affinities, compute_path_affinities, list_path_cells
from stages.kernels.cell_pairs import (
    compute_pair_differences,
    compute_pair_offsets,
    compute_source_window,
    slice_partners,
)
from stages.kernels.resample import upsample
from stages.refine.irn import build_transition, walk_maps
from stages.train_aff.irn import compute_displacement_losses, compute_inter_pixel_loss
from stages.train_aff.labels import build_pair_masks
from stages.train_aff.psa import compute_affinity_loss

WALKS = "cam-methods/irn_random_walk"
LOSSES = "cam-methods/irn_affinity_labels_losses"


def find_offset_positions(offsets: np.ndarray, radius: int) -> list[int]:
    """Return the position of each reference offset among ours, which are in PSA's order."""
    ours = [tuple(offset) for offset in compute_pair_offsets(radius).tolist()]
    assert sorted(ours) == sorted(map(tuple, offsets.tolist()))
    return [ours.index(tuple(offset)) for offset in offsets.tolist()]


@pytest.mark.parametrize("radius", [5, 10])
def test_offsets_paths_and_pairs_match(reference, radius):
    values = reference(WALKS)
    offsets, starts = values[f"r{radius}_search_dst"], values[f"r{radius}_paths_offsets"]
    find_offset_positions(offsets, radius)
    for offset, start, stop in zip(offsets, starts, starts[1:], strict=False):
        assert {*map(tuple, list_path_cells(offset).tolist())} == {
            *map(tuple, values[f"r{radius}_paths_flat"][start:stop].tolist())}
    cases = [(match[0], (int(match[1]), int(match[2]))) for key in values
             if (match := re.fullmatch(rf"r{radius}_src_indices_(\d+)x(\d+)", key))]
    assert cases
    for name, size in cases:
        cells = np.arange(size[0] * size[1]).reshape(size)
        np.testing.assert_array_equal(cells[compute_source_window(size, radius)].ravel(), values[name])
        np.testing.assert_array_equal([slice_partners(cells, offset, radius).ravel() for offset in offsets],
                                      values[name.replace("src", "dst")])


def list_sizes(values) -> list[str]:
    sizes = [match[1] for key in values if (match := re.fullmatch(r"(\d+x\d+)_edge", key))]
    assert sizes
    return sizes


def test_affinities_and_transitions_match(reference):
    values = reference(WALKS)
    for size in list_sizes(values):
        boundary = torch.from_numpy(values[f"{size}_edge"])
        height, width = boundary.shape
        dense = np.eye(height * width, dtype=np.float32)
        cells = np.arange(height * width).reshape(height, width)
        affinities = compute_all_path_affinities(boundary, 5).numpy()
        for (down, across), affinity in zip(compute_pair_offsets(5), affinities, strict=True):
            for row, column in np.argwhere(affinity > 0):
                first, second = cells[row, column], cells[row + down, column + across]
                dense[first, second] = dense[second, first] = affinity[row, column]
        np.testing.assert_allclose(dense, values[f"{size}_affinity_dense_r5"], rtol=1e-5, atol=1e-7)
        unit_maps = np.eye(height * width, dtype=np.float32).reshape(-1, height, width)
        actual = build_transition(boundary, 5, 10).walk(unit_maps, 1).reshape(height * width, -1)
        np.testing.assert_allclose(actual, values[f"{size}_T1_b10"], rtol=1e-4, atol=1e-7)


def test_random_walks_match(reference):
    values = reference(WALKS)
    cases = [match for key in values if (match := re.fullmatch(r"(\d+x\d+)_rw_b(\d+)_t(\d+)_r(\d+)", key))]
    assert cases
    for match in cases:
        boundary, cam = values[f"{match[1]}_edge"], values[f"{match[1]}_cam"]
        actual = build_transition(torch.from_numpy(boundary), int(match[4]), float(match[2])).walk(
            cam * (1 - boundary), 2 ** int(match[3]))
        np.testing.assert_allclose(actual, values[match[0]][:, 0], rtol=1e-4, atol=1e-6)


def test_walk_equals_the_dense_one_in_float64(reference):
    """The reference squares matrices in float32; with its affinities raised in float64 both agree."""
    values = reference(WALKS)
    for size in list_sizes(values):
        boundary, cam = (values[f"{size}_{name}"].astype(np.float64) for name in ("edge", "cam"))
        powered = values[f"{size}_affinity_dense_r5"].astype(np.float64) ** 10
        rows = (cam * (1 - boundary)).reshape(len(cam), -1)
        expected = rows @ np.linalg.matrix_power(powered / powered.sum(0), 256)
        actual = build_transition(torch.from_numpy(boundary), 5, 10).walk(rows.reshape(cam.shape), 256)
        np.testing.assert_allclose(actual.reshape(len(cam), -1), expected, rtol=1e-6, atol=1e-9)


def test_masks_match(reference):
    values = reference(WALKS)
    for size in list_sizes(values):
        boundary, cam = values[f"{size}_edge"], values[f"{size}_cam"]
        image = tuple(values[f"{size}_sem_size"].tolist())
        maps = walk_maps(torch.from_numpy(boundary), cam, radius=5, beta=10, steps=256)
        assert maps.max() == 1
        full = upsample(maps, tuple(4 * side for side in boundary.shape), image)
        mask = np.concatenate([np.full((1, *image), 0.25, np.float32), full / full.max()]).argmax(0)
        assert (mask == values[f"{size}_sem_pred_bg0.25"]).mean() > 0.9995  # ties of float32 apart


def build_masks(values) -> tuple[torch.Tensor, ...]:
    return build_pair_masks(torch.from_numpy(values["label"])[None], 10)


def test_pair_labels_match(reference):
    values = reference(LOSSES)
    positions = find_offset_positions(values["search_dst"], 10)
    for name, mask in zip(("bg", "fg", "neg"), build_masks(values), strict=True):
        np.testing.assert_array_equal(mask[0, positions].flatten(1).numpy(), values[name])


def test_pair_losses_match(reference):
    values = reference(LOSSES)
    positions = find_offset_positions(values["search_dst"], 10)
    affinity = compute_path_affinities(torch.from_numpy(values["edge"]), 10)[0, positions].flatten(1).numpy()
    # The last bit of a boundary near 1 changes the logarithm of its affinity of 4e-4 by 1.5e-4.
    np.testing.assert_allclose(-np.log(affinity + 1e-5), values["pos_aff_loss"], rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(-np.log(1 + 1e-5 - affinity), values["neg_aff_loss"], rtol=1e-5, atol=1e-6)
    displacement = torch.from_numpy(values["disp"])[None]
    difference = compute_pair_differences(displacement, 10)[0][:, positions].flatten(2).numpy()
    offset = values["search_dst"].T[:, :, None]
    np.testing.assert_allclose(np.abs(difference - offset), values["dp_fg_loss"], rtol=1e-5, atol=1e-6)
    if "dp_bg_loss" in values:  # too large for the copy in this repository
        np.testing.assert_allclose(np.abs(difference), values["dp_bg_loss"], rtol=1e-5, atol=1e-6)


def test_losses_match(reference):
    values = reference(LOSSES)
    boundary, displacement = torch.from_numpy(values["edge"]), torch.from_numpy(values["disp"])[None]
    background, classes, different = build_masks(values)
    affinity, nothing = compute_path_affinities(boundary, 10), torch.zeros_like(background)
    parts = [4 * compute_affinity_loss(affinity, background, nothing, nothing),
              4 * compute_affinity_loss(affinity, nothing, classes, nothing),
              2 * compute_affinity_loss(affinity, nothing, nothing, different),
              *compute_displacement_losses(displacement, 10, background, classes)]
    np.testing.assert_allclose(torch.stack(parts), values["loss_parts_bgpos_fgpos_neg_dpfg_dpbg"], rtol=1e-5)
    total = compute_inter_pixel_loss(boundary, displacement, torch.from_numpy(values["label"])[None], 10)["loss"]
    np.testing.assert_allclose(total, values["total_loss"], rtol=1e-5)
