"""Pseudo masks and scores are the same, whatever bands of rows an image is divided into."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cli.runner import read_items, run_ok
from stages.kernels import interpolation


def make_masks_and_scores(maps, folder, background: str) -> tuple[dict, dict, list]:
    """Return the pseudo masks, their confidence, and the scores of CAMs and masks."""
    rule, threshold = ("--background", background), ("--min-confidence", "0.55")
    run_ok("pseudo", maps, *rule, *threshold, "-j", "1", "-q", "-o", folder)
    scores = [json.loads("\n".join(run_ok("eval", run, "--json", "-q", *words))) for run, words in (
        (maps, rule if "two" not in background else ()), (maps, ()), (maps, ("--background", "sweep-power")),
        (folder, ()))]
    return read_items(folder, "masks", "mask"), read_items(folder, "masks", "confidence"), scores


@pytest.mark.parametrize("background", ["constant:0.4", "power:2", "two-thresholds:0.2,0.6"])
def test_bands_do_not_change_masks_and_scores(maps, tmp_path, monkeypatch, background):
    masks, confidence, scores = make_masks_and_scores(maps, tmp_path / "whole", background)
    assert len({value for mask in masks.values() for value in np.unique(mask).tolist()}) >= 3
    for band_values in (1, 64 * 7):  # single rows, and seven rows of an image with one class
        monkeypatch.setattr(interpolation, "_BAND_VALUES", band_values)
        banded = make_masks_and_scores(maps, tmp_path / str(band_values), background)
        for name in masks:
            np.testing.assert_array_equal(banded[0][name], masks[name])
            np.testing.assert_array_equal(banded[1][name], confidence[name])
        assert banded[2] == scores
