"""IRN's pairs, paths, affinities, losses and random walks against its own functions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from stages.kernels.pairs import pair_differences, pair_offsets, partners, source_window
from stages.kernels.paths import affinities_between_all, path_affinities, path_cells
from stages.kernels.resample import upsample
from stages.refine.irn import transition, walked
from stages.train_aff.irn import displacement_losses, inter_pixel_loss
from stages.train_aff.labels import pair_labels
from stages.train_aff.psa import affinity_loss

WALKS = "cam-methods/irn_random_walk"
LOSSES = "cam-methods/irn_affinity_labels_losses"


def order_of(offsets: np.ndarray, radius: int) -> list[int]:
    """Return where each of the reference's offsets stands among ours, which are in PSA's order."""
    ours = [tuple(offset) for offset in pair_offsets(radius).tolist()]
    assert sorted(ours) == sorted(map(tuple, offsets.tolist()))
    return [ours.index(tuple(offset)) for offset in offsets.tolist()]


@pytest.mark.parametrize("radius", [5, 10])
def test_offsets_paths_and_pairs(reference, radius):
    values = reference(WALKS)
    offsets, starts = values[f"r{radius}_search_dst"], values[f"r{radius}_paths_offsets"]
    order_of(offsets, radius)
    for offset, start, stop in zip(offsets, starts, starts[1:], strict=False):
        assert {*map(tuple, path_cells(offset).tolist())} == {
            *map(tuple, values[f"r{radius}_paths_flat"][start:stop].tolist())}
    cases = [(match[0], (int(match[1]), int(match[2]))) for key in values
             if (match := re.fullmatch(rf"r{radius}_src_indices_(\d+)x(\d+)", key))]
    assert cases
    for name, size in cases:
        cells = np.arange(size[0] * size[1]).reshape(size)
        np.testing.assert_array_equal(cells[source_window(size, radius)].ravel(), values[name])
        np.testing.assert_array_equal([partners(cells, offset, radius).ravel() for offset in offsets],
                                      values[name.replace("src", "dst")])


def sizes(values) -> list[str]:
    found = [match[1] for key in values if (match := re.fullmatch(r"(\d+x\d+)_edge", key))]
    assert found
    return found


def test_affinities_and_transitions(reference):
    values = reference(WALKS)
    for size in sizes(values):
        boundary = torch.from_numpy(values[f"{size}_edge"])
        height, width = boundary.shape
        dense = np.eye(height * width, dtype=np.float32)
        cells = np.arange(height * width).reshape(height, width)
        for (down, across), affinity in zip(pair_offsets(5), affinities_between_all(boundary, 5).numpy(), strict=True):
            for row, column in np.argwhere(affinity > 0):
                one, other = cells[row, column], cells[row + down, column + across]
                dense[one, other] = dense[other, one] = affinity[row, column]
        np.testing.assert_allclose(dense, values[f"{size}_affinity_dense_r5"], rtol=1e-5, atol=1e-7)
        each = np.eye(height * width, dtype=np.float32).reshape(-1, height, width)
        found = transition(boundary, 5, 10).walk(each, 1).reshape(height * width, -1)
        np.testing.assert_allclose(found, values[f"{size}_T1_b10"], rtol=1e-4, atol=1e-7)


def test_walks(reference):
    values = reference(WALKS)
    cases = [match for key in values if (match := re.fullmatch(r"(\d+x\d+)_rw_b(\d+)_t(\d+)_r(\d+)", key))]
    assert cases
    for match in cases:
        boundary, cam = values[f"{match[1]}_edge"], values[f"{match[1]}_cam"]
        found = transition(torch.from_numpy(boundary), int(match[4]), float(match[2])).walk(
            cam * (1 - boundary), 2 ** int(match[3]))
        np.testing.assert_allclose(found, values[match[0]][:, 0], rtol=1e-4, atol=1e-6)


def test_the_walk_in_float64_is_the_dense_one(reference):
    """The reference squares in float32; its affinities raised in float64 leave nothing between the two."""
    values = reference(WALKS)
    for size in sizes(values):
        boundary, cam = (values[f"{size}_{name}"].astype(np.float64) for name in ("edge", "cam"))
        powered = values[f"{size}_affinity_dense_r5"].astype(np.float64) ** 10
        rows = (cam * (1 - boundary)).reshape(len(cam), -1)
        expected = rows @ np.linalg.matrix_power(powered / powered.sum(0), 256)
        found = transition(torch.from_numpy(boundary), 5, 10).walk(rows.reshape(cam.shape), 256)
        np.testing.assert_allclose(found.reshape(len(cam), -1), expected, rtol=1e-6, atol=1e-9)


def test_masks(reference):
    values = reference(WALKS)
    for size in sizes(values):
        boundary, cam = values[f"{size}_edge"], values[f"{size}_cam"]
        image = tuple(values[f"{size}_sem_size"].tolist())
        maps = walked(torch.from_numpy(boundary), cam, radius=5, beta=10, steps=256)
        assert maps.max() == 1
        full = upsample(maps, tuple(4 * side for side in boundary.shape), image)
        mask = np.concatenate([np.full((1, *image), 0.25, np.float32), full / full.max()]).argmax(0)
        assert (mask == values[f"{size}_sem_pred_bg0.25"]).mean() > 0.9995  # ties of float32 apart


def masks_of(values) -> tuple[torch.Tensor, ...]:
    return pair_labels(torch.from_numpy(values["label"])[None], 10)


def test_labels_of_pairs(reference):
    values = reference(LOSSES)
    order = order_of(values["search_dst"], 10)
    for name, mask in zip(("bg", "fg", "neg"), masks_of(values), strict=True):
        np.testing.assert_array_equal(mask[0, order].flatten(1).numpy(), values[name])


def test_costs_of_pairs(reference):
    values = reference(LOSSES)
    order = order_of(values["search_dst"], 10)
    affinity = path_affinities(torch.from_numpy(values["edge"]), 10)[0, order].flatten(1).numpy()
    # The last bit of a boundary near 1 moves the logarithm of its affinity of 4e-4 by 1.5e-4.
    np.testing.assert_allclose(-np.log(affinity + 1e-5), values["pos_aff_loss"], rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(-np.log(1 + 1e-5 - affinity), values["neg_aff_loss"], rtol=1e-5, atol=1e-6)
    difference = pair_differences(torch.from_numpy(values["disp"])[None], 10)[0][:, order].flatten(2).numpy()
    apart = values["search_dst"].T[:, :, None]
    np.testing.assert_allclose(np.abs(difference - apart), values["dp_fg_loss"], rtol=1e-5, atol=1e-6)
    if "dp_bg_loss" in values:  # too large for the copy that is kept here
        np.testing.assert_allclose(np.abs(difference), values["dp_bg_loss"], rtol=1e-5, atol=1e-6)


def test_losses(reference):
    values = reference(LOSSES)
    boundary, displacement = torch.from_numpy(values["edge"]), torch.from_numpy(values["disp"])[None]
    background, classes, different = masks_of(values)
    affinity, nothing = path_affinities(boundary, 10), torch.zeros_like(background)
    shares = [4 * affinity_loss(affinity, background, nothing, nothing),
              4 * affinity_loss(affinity, nothing, classes, nothing),
              2 * affinity_loss(affinity, nothing, nothing, different),
              *displacement_losses(displacement, 10, background, classes)]
    np.testing.assert_allclose(torch.stack(shares), values["loss_parts_bgpos_fgpos_neg_dpfg_dpbg"], rtol=1e-5)
    total = inter_pixel_loss(boundary, displacement, torch.from_numpy(values["label"])[None], 10)["loss"]
    np.testing.assert_allclose(total, values["total_loss"], rtol=1e-5)
