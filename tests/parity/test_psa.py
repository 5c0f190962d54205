"""PSA's pairs, labels, affinities and random walks against its own functions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from stages.kernels.pairs import pair_distances, pair_offsets, source_window, spread_over_map
from stages.kernels.random_walk import Transition
from stages.kernels.resample import cell_means, upsample
from stages.refine.psa import transition
from stages.train_aff.labels import confident_areas, pair_labels


def test_offsets_and_pairs(reference):
    np.testing.assert_array_equal(pair_offsets(5), reference("cam-methods/psa_affinity_labels")["search_dist_radius5"])
    values = reference("cam-methods/psa_random_walk")
    cases = [match for key in values if (match := re.fullmatch(r"pairs_r(\d+)_(\d+)x(\d+)_from", key))]
    assert cases
    for match in cases:
        radius, size = int(match[1]), (int(match[2]), int(match[3]))
        cells = np.arange(size[0] * size[1]).reshape(size)
        sources = cells[source_window(size, radius)].ravel()
        np.testing.assert_array_equal(sources, values[match[0]])
        steps = pair_offsets(radius) @ [size[1], 1]
        found = (sources + steps[:, None]).ravel()
        np.testing.assert_array_equal(found, values[match[0].replace("from", "to")])


def test_affinities(reference):
    values = reference("cam-methods/psa_random_walk")
    features = torch.from_numpy(values["feature_448"])
    found = torch.exp(-pair_distances(features[None], 5))[0].numpy()
    np.testing.assert_allclose(found.reshape(len(found), -1), values["affinity_sparse"], rtol=1e-5)


def walks(values) -> list[re.Match]:
    found = [match for key in values if (match := re.fullmatch(r"(rw_a(\d+)_b(\d+)_t(\d+))_lowres_in", key))]
    assert found
    return found


def test_walks_of_features(reference):
    values = reference("cam-methods/psa_random_walk")
    for match in walks(values):
        found = transition(torch.from_numpy(values["feature_448"]), 5, float(match[3])).walk(
            values[match[0]], 2 ** int(match[4]))
        np.testing.assert_allclose(found, values[f"{match[1]}_lowres_out"], rtol=1e-4, atol=1e-6)


def test_the_walk_in_float64_is_the_dense_one(reference):
    """The reference squares in float32; against its own transition matrix raised in float64 nothing is left."""
    values = reference("cam-methods/psa_random_walk")
    size = values["feature_448"].shape[1:]
    window = np.empty(size)[source_window(size, 5)].shape
    sparse = values["affinity_sparse"].astype(np.float64).reshape(-1, *window)
    for match in walks(values):
        beta, steps = int(match[3]), 2 ** int(match[4])
        dense = values["affinity_dense"].astype(np.float64) ** beta
        dense /= dense.sum(0)
        rows = values[match[0]].astype(np.float64)
        found = Transition(spread_over_map(sparse, size, 5), pair_offsets(5), beta).walk(rows, steps)
        expected = rows.reshape(len(rows), -1) @ np.linalg.matrix_power(dense, steps)
        np.testing.assert_allclose(found.reshape(len(rows), -1), expected, rtol=1e-6)


def test_walked_masks(reference):
    """From maps at full size with PSA's background to the mask."""
    values = reference("cam-methods/psa_random_walk")
    maps, classes = values["cam_fullres"], values["cam_classes_plus1"]
    size = maps.shape[1:]
    for match in walks(values):
        background = (1 - maps.max(0)) ** int(match[2])
        means = cell_means(np.concatenate([background[None], maps]), 8)
        given = values[match[0]][np.concatenate([[0], classes])]
        np.testing.assert_allclose(means, given, rtol=1e-5, atol=1e-7)
        walked = transition(torch.from_numpy(values["feature_448"]), 5, float(match[3])).walk(means, 2 ** int(match[4]))
        covers = (walked.shape[1] * 8, walked.shape[2] * 8)
        mask = np.concatenate([[0], classes])[upsample(walked, covers, size).argmax(0)]
        expected = values[f"{match[1]}_pred"]
        assert (mask == expected).mean() > 0.9995  # ties of float32 apart


@pytest.mark.parametrize("kind", ["bg", "fg", "neg"])
def test_pair_labels(reference, kind):
    values = reference("cam-methods/psa_affinity_labels")
    names = [key.removesuffix("_label") for key in values if key.endswith("_label")]
    assert names
    for name in names:
        label = torch.from_numpy(values[f"{name}_label"])[None]
        found = dict(zip(("bg", "fg", "neg"), pair_labels(label, 5), strict=True))[kind]
        np.testing.assert_array_equal(found[0].flatten(1).numpy(), values[f"{name}_{kind}"])


def test_confident_areas(reference):
    values = reference("cam-methods/psa_affinity_labels")
    np.testing.assert_array_equal(confident_areas(values["merge_la"], values["merge_ha"]), values["merge_label"])
