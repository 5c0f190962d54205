"""The consistency losses of CSD against reference values: the paper's equations, and its author's development code."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stages.train_cls.csd import background_divergence, foreground_divergence, reduced, whole_cells

# The maps of these values are refined ones, to whose scale the dummy score 0.1 belongs.
PAPER = {"base": "mctformer", "csd_maps": "refined", "constant": 0.1, "constant_of": "auto", "saliency": "sum",
         "terms": "all", "temperature": 1.0, "background_gain": 1.0}
DEVELOPMENT = {**PAPER, "saliency": "per-class", "terms": "own", "background_gain": 10.0}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def values(reference):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in reference("cam-methods/csd_losses").items()}


def maps(values, name: str) -> torch.Tensor:
    return values[f"{name}_attn"].double()


def source_of(values) -> torch.Tensor:
    return values["label_single"].argmax(1) + 1


def cells(values, name: str) -> torch.Tensor:
    return whole_cells(values[f"{name}_mask"], maps(values, "single").shape[-2:])


@pytest.mark.parametrize("name", ["fg", "bg"])
def test_cells_that_are_wholly_inside(values, name):
    torch.testing.assert_close(cells(values, name).float(), values[f"dev_{name}_grid"])


def test_the_foreground(values):
    found = foreground_divergence(maps(values, "single"), maps(values, "fgpaste"), SimpleNamespace(**PAPER),
                                  source_of(values))
    torch.testing.assert_close(found, values["rec_fg_kl_map"], **CLOSE)
    inside = cells(values, "fg")
    torch.testing.assert_close(reduced(found, inside, "sum") * len(found), values["rec_fg_loss_sum"], **CLOSE)
    torch.testing.assert_close(reduced(found, inside, "mean"), values["rec_fg_loss_mean"], **CLOSE)


def test_the_background_at_every_dummy_score(values):
    tried = [name.removeprefix("rec_bg_kl_map_M") for name in values if name.startswith("rec_bg_kl_map_M")]
    assert tried
    for score in tried:
        found = background_divergence(maps(values, "single"), maps(values, "bgpaste"),
                                      SimpleNamespace(**{**PAPER, "constant": float(score)}))
        torch.testing.assert_close(found, values[f"rec_bg_kl_map_M{score}"], **CLOSE)
        inside = cells(values, "bg")
        torch.testing.assert_close(reduced(found, inside, "sum") * len(found), values[f"rec_bg_loss_sum_M{score}"],
                                   **CLOSE)
        torch.testing.assert_close(reduced(found, inside, "mean"), values[f"rec_bg_loss_mean_M{score}"], **CLOSE)


def test_the_background_of_the_development_code(values):
    found = background_divergence(maps(values, "single"), maps(values, "bgpaste"), SimpleNamespace(**DEVELOPMENT))
    torch.testing.assert_close(found.float(), values["dev_bg_kl_map"], rtol=1e-5, atol=1e-6)
    # Its sum weighs the cells (the weights of an image sum to 1) and is the mean over the images.
    weighed = (found * values["dev_bg_pixel_weight"]).sum() / len(found)
    torch.testing.assert_close(weighed, values["dev_bg_loss"], rtol=1e-5, atol=1e-7)


def test_the_foreground_of_the_development_code(values):
    """It stretches the maps over the classes first, which the paper does not, and drops cells: those left agree."""
    def stretched(scores: torch.Tensor) -> torch.Tensor:
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        return (scores - low) / (high - low + 1e-4)

    teacher = stretched(maps(values, "single"))
    torch.testing.assert_close(teacher.float(), values["dev_single_chan_minmax"], rtol=1e-5, atol=1e-6)
    found = foreground_divergence(teacher, stretched(maps(values, "fgpaste")), SimpleNamespace(**DEVELOPMENT),
                                  source_of(values))
    kept = (values["dev_fg_kl_map"] != 0) & cells(values, "fg")
    assert kept.any()
    torch.testing.assert_close(found[kept].float(), values["dev_fg_kl_map"][kept], rtol=1e-5, atol=1e-6)
