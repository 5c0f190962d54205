"""PSA's pairs, labels, affinities and random walks against its own functions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from stages.kernels.cell_pairs import (
    compute_pair_distances,
    compute_pair_offsets,
    compute_source_window,
    scatter_pairs_to_map,
)
from stages.kernels.random_walk import TransitionMatrix
from stages.kernels.resample import average_cells, upsample
from stages.refine.psa import build_transition
from stages.train_aff.labels import build_pair_masks, select_confident_labels


def test_offsets_and_pairs_match(reference):
    expected = reference("cam-methods/psa_affinity_labels")["search_dist_radius5"]
    np.testing.assert_array_equal(compute_pair_offsets(5), expected)
    values = reference("cam-methods/psa_random_walk")
    cases = [match for key in values if (match := re.fullmatch(r"pairs_r(\d+)_(\d+)x(\d+)_from", key))]
    assert cases
    for match in cases:
        radius, size = int(match[1]), (int(match[2]), int(match[3]))
        cells = np.arange(size[0] * size[1]).reshape(size)
        sources = cells[compute_source_window(size, radius)].ravel()
        np.testing.assert_array_equal(sources, values[match[0]])
        steps = compute_pair_offsets(radius) @ [size[1], 1]
        actual = (sources + steps[:, None]).ravel()
        np.testing.assert_array_equal(actual, values[match[0].replace("from", "to")])


def test_affinities_match(reference):
    values = reference("cam-methods/psa_random_walk")
    features = torch.from_numpy(values["feature_448"])
    actual = torch.exp(-compute_pair_distances(features[None], 5))[0].numpy()
    np.testing.assert_allclose(actual.reshape(len(actual), -1), values["affinity_sparse"], rtol=1e-5)


def list_walks(values) -> list[re.Match]:
    matches = [match for key in values if (match := re.fullmatch(r"(rw_a(\d+)_b(\d+)_t(\d+))_lowres_in", key))]
    assert matches
    return matches


def test_random_walks_match(reference):
    values = reference("cam-methods/psa_random_walk")
    for match in list_walks(values):
        actual = build_transition(torch.from_numpy(values["feature_448"]), 5, float(match[3])).walk(
            values[match[0]], 2 ** int(match[4]))
        np.testing.assert_allclose(actual, values[f"{match[1]}_lowres_out"], rtol=1e-4, atol=1e-6)


def test_walk_equals_the_dense_one_in_float64(reference):
    """The reference squares matrices in float32; with its transition matrix raised in float64 both agree."""
    values = reference("cam-methods/psa_random_walk")
    size = values["feature_448"].shape[1:]
    window = np.empty(size)[compute_source_window(size, 5)].shape
    sparse = values["affinity_sparse"].astype(np.float64).reshape(-1, *window)
    for match in list_walks(values):
        beta, steps = int(match[3]), 2 ** int(match[4])
        dense = values["affinity_dense"].astype(np.float64) ** beta
        dense /= dense.sum(0)
        rows = values[match[0]].astype(np.float64)
        transition = TransitionMatrix(scatter_pairs_to_map(sparse, size, 5), compute_pair_offsets(5), beta)
        actual = transition.walk(rows, steps)
        expected = rows.reshape(len(rows), -1) @ np.linalg.matrix_power(dense, steps)
        np.testing.assert_allclose(actual.reshape(len(rows), -1), expected, rtol=1e-6)


def test_masks_after_the_walk_match(reference):
    """From CAMs at full size with PSA's background to the mask."""
    values = reference("cam-methods/psa_random_walk")
    maps, classes = values["cam_fullres"], values["cam_classes_plus1"]
    size = maps.shape[1:]
    for match in list_walks(values):
        background = (1 - maps.max(0)) ** int(match[2])
        means = average_cells(np.concatenate([background[None], maps]), 8)
        expected_means = values[match[0]][np.concatenate([[0], classes])]
        np.testing.assert_allclose(means, expected_means, rtol=1e-5, atol=1e-7)
        transition = build_transition(torch.from_numpy(values["feature_448"]), 5, float(match[3]))
        refined = transition.walk(means, 2 ** int(match[4]))
        covers = (refined.shape[1] * 8, refined.shape[2] * 8)
        mask = np.concatenate([[0], classes])[upsample(refined, covers, size).argmax(0)]
        expected = values[f"{match[1]}_pred"]
        assert (mask == expected).mean() > 0.9995  # ties of float32 apart


@pytest.mark.parametrize("kind", ["bg", "fg", "neg"])
def test_pair_labels_match(reference, kind):
    values = reference("cam-methods/psa_affinity_labels")
    names = [key.removesuffix("_label") for key in values if key.endswith("_label")]
    assert names
    for name in names:
        label = torch.from_numpy(values[f"{name}_label"])[None]
        actual = dict(zip(("bg", "fg", "neg"), build_pair_masks(label, 5), strict=True))[kind]
        np.testing.assert_array_equal(actual[0].flatten(1).numpy(), values[f"{name}_{kind}"])


def test_confident_labels_match(reference):
    values = reference("cam-methods/psa_affinity_labels")
    labels = select_confident_labels(values["merge_la"], values["merge_ha"])
    np.testing.assert_array_equal(labels, values["merge_label"])
